"""The text of `batchchat --help`, as text: building it would cost more than all else at start-up."""

USAGE = """\
Usage: batchchat [OPTIONS] COMMAND [ARGS]...

  A model's answer beside every row of a table.

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit; also after a command.

Commands:
  run       Run or resume JOB: ask every row that has no answer, then write the output.
  check     Check everything about JOB that can be known without sending.
  preview   Print the exact requests of the first rows of JOB.
  estimate  Say what JOB has still to ask: requests, tokens, dollars and minutes.
  status    Say how far JOB is, from its checkpoint alone; works while another process runs it.
  export    Write the output of JOB from the answers that are there now.
  verify    Prove that the output of JOB is what its input and its checkpoint give.
  prune     Remove answers that no recent run of JOB made or used from its checkpoint.
  schedule  Print a crontab line, a systemd timer or a workflow that runs JOB every night.
  init      Write a commented starter job, and the small table that it reads beside it.
  schema    Print the job file's JSON Schema, for editors and validators.
  serve     Serve the embedded endpoint on 127.0.0.1 until stopped.

Exit codes: 0 every row answered; 1 finished, some rows failed; 2 the job, the arguments or the
data are wrong; 3 the checkpoint cannot be used; 4 the endpoint refuses the job; 5 stopped at
budget, deadline or error rate; 130/143 interrupted. After 3, 4, 5, 130 and 143 the same command goes on.
"""
