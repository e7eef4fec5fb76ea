"""Which words of a text speak for which label: a small built-in thesaurus of common labels, in several languages.

What passes in are words, already normalised by `words.py`; what comes out are concepts. It is data: it does not know
texts or how a label is chosen. A concept's `names` are the labels that mean it, its `terms` the words that speak for
it, and its `phrases` are looked for as they stand, for terms of several words and for scripts without spaces.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from batchchat.serve.words import normalised, stem


@dataclass(frozen=True, slots=True)
class Concept:
    """What a label means; `names` and `terms` are stems, `phrases` are normalised text."""

    names: frozenset[str]
    terms: frozenset[str]
    phrases: tuple[str, ...] = ()


def _concept(names: str, terms: str, *phrases: str) -> Concept:
    return Concept(_stems(names), _stems(terms), tuple(normalised(phrase) for phrase in phrases))


def _stems(words: str) -> frozenset[str]:
    return frozenset(stem(word) for word in normalised(words).split())


POSITIVE = _concept(
    "positive pos happy satisfied praise promoter good positiv positif positivo",
    """great good excellent love loved perfect amazing awesome happy wonderful fantastic best recommend pleased thanks
    thank fast easy comfortable delighted brilliant superb sturdy works beautiful nice gut super toll prima
    zufrieden ausgezeichnet schnell perfekt excellente parfait bon bonne ravi merci genial excelente perfecto bueno
    buena gracias encantado contento otimo adorei""",
    "素晴らしい", "最高", "満足", "気に入", "❤", "😍", "👍", "five stars",
)  # fmt: skip
NEGATIVE = _concept(
    "negative neg angry unhappy dissatisfied detractor bad frustrated negativ negatif negativo",
    """bad terrible awful hate hated worst broken broke disappointed disappointing poor useless horrible slow cheap
    refund returned return annoying angry furious unacceptable waste faulty defective damaged rude regret uncomfortable
    schlecht enttaeuscht enttauscht kaputt furchtbar mangelhaft langsam mauvais decu nul horrible casse malo mala roto
    pesimo decepcionado terrivel ruim""",
    "最悪", "がっかり", "壊れ", "ひどい", "😡", "👎", "stopped working", "does not work", "doesn't work", "one star",
    "funktioniert nicht", "fonctionne pas", "no funciona",
)  # fmt: skip

CONCEPTS = (
    POSITIVE,
    NEGATIVE,
    _concept(
        "billing payment payments invoice invoicing refund finance charge charges money",
        """invoice charge charged refund payment paid pay card billing bill bank price receipt subscription tax vat
        overcharged money credit debit iban paypal facture remboursement paiement prelevement carte rechnung zahlung
        erstattung abbuchung abgebucht konto geld factura cobro cobrado reembolso pago tarjeta fatura cobranca""",
        "請求", "返金", "支払", "クレジットカード", "charged twice", "€", "£",
    ),
    _concept(
        "shipping delivery logistics shipment fulfilment fulfillment versand livraison envio",
        """parcel package delivery delivered deliver tracking shipped shipping shipment ship courier arrive arrived
        address carrier postal lieferung paket versand sendung geliefert zustellung colis livraison livre livreur suivi
        envio paquete entrega entregado pedido encomenda warehouse customs dispatched""",
        "配送", "届か", "荷物", "発送", "追跡", "has not arrived", "where is my order",
    ),
    _concept(
        "bug technical tech crash defect error incident outage",
        """error errors crash crashes crashed crashing bug broken freeze frozen fails failed exception blank timeout
        glitch unresponsive loading outage stacktrace reproduce version browser app update fehler absturz
        stuerzt sturzt abgesturzt erreur plante bogue ecran fallo cuelga pantalla erro travou""",
        "エラー", "不具合", "落ち", "動かな", "login fails", "does not work", "doesn't work", "white screen", "500",
    ),
    _concept(
        "account login access authentication profile password konto compte cuenta signin",
        """password login account email username signin signup locked profile authentication verification verify reset
        passwort kennwort anmelden anmeldung benutzerkonto gesperrt compte connexion identifiant contrasena cuenta
        acceso senha conta 2fa""",
        "パスワード", "ログイン", "アカウント", "e-mail", "log in", "sign in", "mot de passe",
    ),
    _concept(
        "feature suggestion idea enhancement improvement wish feedback",
        """feature suggestion suggest wish idea add support roadmap dark mode option integrate integration would
        wuensche wunsch vorschlag funktion suggestion fonctionnalite sugerencia funcion""",
        "would be nice", "it would be great", "please add", "機能",
    ),
    _concept(
        "cancellation cancel churn unsubscribe termination",
        "cancel cancelled cancellation unsubscribe terminate kuendigen kundigen kundigung resilier annuler cancelar",
        "close my account", "解約", "キャンセル",
    ),
    _concept(
        "return returns exchange warranty",
        "return returned exchange replacement warranty rma retoure umtausch garantie retour echange devolucion cambio",
        "send it back", "返品", "交換",
    ),
    _concept(
        "spam phishing scam fraud abuse injection unsafe",
        "winner prize lottery click crypto bitcoin casino viagra unsubscribe fraud scam phishing ignore jailbreak",
        "ignore previous instructions", "ignore all previous", "system prompt", "you have won",
    ),
    _concept(
        "urgent urgency high critical severe emergency p0 p1 hoch haute alta important escalate",
        """urgent urgently immediately asap critical emergency today now deadline blocked outage production down
        legal lawyer safety dringend sofort urgente immediatement tout inmediatamente ya""",
        "至急", "緊急", "right away", "as soon as possible", "!!!", "cannot work", "can't work",
    ),
    _concept(
        "low minor trivial p3 p4 niedrig basse baja",
        "minor whenever small cosmetic typo suggestion curious wondering question idea nice thanks",
        "no rush", "not urgent", "no hurry", "when you have time", "nicht eilig", "pas urgent", "sin prisa",
    ),
    _concept("yes true", "yes yep yeah correct agree ja oui si sim", "はい"),
    _concept("no false", "no nope disagree incorrect nein non nao", "いいえ"),
    _concept("question inquiry enquiry howto", "how what when where which why who can could wie quoi como", "?"),
    _concept(
        "english en", "the and is of to it for was with this that have not are my you", "i'm", "don't",
    ),
    _concept(
        "german deutsch de", "der die das und ist nicht ich mit ein eine auf habe wurde sie bitte wir mein noch",
    ),
    _concept(
        "french francais fr", "le la les et est pas je une un des vous pour mon ma sur nous bonjour", "j'ai", "c'est",
    ),
    _concept(
        "spanish espanol castellano es", "el la los las y es no mi un una que por para con pero muy hola me", "¿", "¡",
    ),
    _concept(
        "portuguese portugues pt", "o os as e nao um uma que para com meu minha muito ola voce foi mas do da", "ção",
    ),
    _concept("italian italiano it", "il lo gli e non un una che per con mio mia molto ciao sono della", "perche"),
    _concept("dutch nederlands nl", "de het een en niet ik met mijn is van voor maar heb naar"),
    _concept("japanese nihongo ja jp", "", *"のはをがにですまし"),
    _concept("korean ko kr", "", *"이다은는을를에서"),
    _concept("russian ru", "не на я что это меня мой как для"),
    _concept("electronics gadget device", "battery charger usb cable screen headphone laptop phone bluetooth wireless"),
    _concept("clothing apparel fashion", "shirt dress jacket size fabric cotton wool shoe sock sleeve wear trousers"),
    _concept("kitchen home household", "pan knife kettle mug lamp kitchen oven blanket chair table cook coffee vase"),
    _concept("outdoor sports garden fitness", "tent hiking camping garden bike running yoga ball trail bottle seed"),
    _concept("beauty health care", "skin cream shampoo soap vitamin hair lotion serum scent"),
    _concept("toys toy games kids", "toy puzzle game child children lego doll plush play"),
    _concept("books book stationery office", "book paper novel pen notebook author chapter pencil desk"),
    _concept("quality", "quality durable sturdy material broke broken cheap stitching"),
    _concept("price value cost", "price expensive cheap value money worth cost"),
)  # fmt: skip

# What is chosen when no word speaks for any label, in this order of preference.
FALLBACK_NAMES = tuple(
    stem(normalised(name))
    for name in (
        *("other", "others", "general", "unknown", "misc", "miscellaneous", "none", "na", "unclear", "sonstiges"),
        *("autre", "otro", "outro", "その他", "neutral", "neutre", "mixed", "medium", "normal", "moderate", "unsure"),
    )
)


@lru_cache(maxsize=4096)
def concepts_named(stems: frozenset[str]) -> tuple[Concept, ...]:
    """Return the concepts that any of these stems of a label names."""
    return tuple(concept for concept in CONCEPTS if concept.names & stems)


def hits(concept: Concept, stems: Iterable[str], text: str) -> int:
    """Return how many of a concept's terms and phrases occur in a text and its stems."""
    return len(concept.terms.intersection(stems)) + sum(phrase in text for phrase in concept.phrases)
