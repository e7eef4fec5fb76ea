"""Choose a label for a text: the one whose words, or words listed here for it, occur in the text most."""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

# What a label may be called, and what speaks for it. A word of up to three letters stands for itself, a longer one for
# all that begin so; "_" is a space.
_SPEAK_FOR = {
    "billing payment invoice refund money charge": """
        invoice charged_twice identical_charges customs_charge refund money_back paid pay payment credit_card debit card
        price discount tax vat subscription receipt taken €  rechnung zahl abgebucht erstattung skonto mahn
        factura cobrad cobro cargos reembolso devolverme pago tarjeta  facture rembours paiement prélev carte_banc débit
        請求 返金 支払 引き落と カード""",
    "shipping delivery parcel order logistics": """
        parcel package deliver tracking courier driver ship dispatch carton arriv depot order_is picked_up postcode
        address customs warehouse came  paket liefer geliefert versand sendung zustell bote spedition filiale angekommen
        paquete envío envio entrega repartidor pedido llega falta  colis livr transport point_relais bordereau
        届 配送 配達 荷物 発送 納品 住所""",
    "bug technical error defect crash": """
        error crash bug freez broken_link does_not_work doesn't_work not_load blank_page does_nothing app login_fails
        closes_itself offline update firmware reset_when http 429 500 api  fehler stürzt funktioniert_nicht
        aplicación fallo pantalla error  appli bogue plante erreur  アプリ エラー 不具合 反応しない 文字化け""",
    "account login password profile access": """
        account password log_in logged_in login sign_in signin 2fa sso username admin locked verification unsubscribe
        delete_my  passwort konto anmeld zugang benutzer gesperrt dsgvo kündig  cuenta contraseña acceso
        compte mot_de_passe connexion identifiant  アカウント パスワード ログイン 退会""",
    "positive good happy satisfied": """
        great good excellent love perfect amazing happy wonderful fantastic best recommend pleased thank easy beautiful
        properly praise 5_of_5 4_of_5  gut toll super zufrieden  parfait merci ravi  gracias encanta  素晴らし""",
    "negative bad angry unhappy dissatisfied": """
        bad terrible awful hate worst broke disappoint poor useless horrible slow return refund faulty damag waste cheap
        annoy 1_of_5 2_of_5  schlecht kaputt enttäusch  nul cassé déçu  malo roto decepcion  最悪 壊れ がっかり""",
    "urgent high critical urgency": """
        urgent immediately asap critical emergency today deadline blocked outage safety dangerous sparks cannot_work
        hospital allergic  dringend sofort  urge inmediat hoy  至急 緊急 今日""",
    "low minor trivial": "typo suggestion wish whenever curious thank no_rush survey joking gracias merci danke 楽しみ",
    "yes true": "yes correct agree ja oui",
    "en english": "the and is of to it for was with this that not my you i",
    "de german deutsch": "der die das und ist nicht ich mit ein eine auf habe sie bitte wir im den",
    "fr french": "le la les et est pas je une un des vous pour mon sur nous j'ai c'est l'app à ne du en",
    "es spanish": "el los las y es no mi un una que por para con pero muy hola me se del al lo está",
    "ja japanese": "の は を が に で す ま し た",
}  # fmt: skip
_FALLBACKS = frozenset(
    "other others else unknown general none neutral mixed medium normal no false support".split()  # noqa: SIM905
)
# What a function's name begins with says little of what it is about.
_VAGUE = frozenset(
    """get set find show list send make give create update delete current back the and for with where when what out
    from hand person""".split()  # noqa: SIM905
)
_SYMBOLS = re.compile(r"[^\w€]+|_")


def ranked(options: Sequence[Any], text: str) -> list[Any]:
    """Return the options, the one that a text speaks for first; where it speaks for none, one such as "other"."""
    scores = [_score(str(option), text) for option in options]
    order = sorted(range(len(options)), key=lambda index: -scores[index])
    if order and scores[order[0]] == 0:
        fallbacks = [index for index in order if not _FALLBACKS.isdisjoint(_words(str(options[index])))]
        best = fallbacks[0] if fallbacks else zlib.crc32(text.encode("utf-8", "replace")) % len(options)
        order = [best, *(index for index in order if index != best)]
    return [options[index] for index in order]


def speaks_for(name: str, text: str) -> bool:
    """Tell whether a text has words for a name such as `is_urgent` or `get_weather`."""
    return _score(name, text) > 0


def _score(label: str, text: str) -> int:
    padded = _padded(text)
    return sum(term in padded for term in _terms(label))


@lru_cache(maxsize=64)
def _padded(text: str) -> str:
    """Return the words of a text in lower case with one space before and after each."""
    return f" {_SYMBOLS.sub(' ', text.casefold())} "


@lru_cache(maxsize=1024)
def _terms(label: str) -> tuple[str, ...]:
    """Return what speaks for a label, as it stands in a padded text."""
    own = set(_words(label)) - _VAGUE
    listed = chain.from_iterable(words.split() for names, words in _SPEAK_FOR.items() if own & set(names.split()))
    terms = {word[:6] for word in own} | {_SYMBOLS.sub(" ", word) for word in listed}
    # Japanese has no spaces between its words.
    return tuple(term if term[0] > "\u2000" else f" {term}" + " " * (len(term) <= 3) for term in sorted(terms))


def _words(label: str) -> list[str]:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return re.findall(r"[^\W_]+", parted.casefold())
