# One cell = one job = one child process = one record. A cell's rule has no input and no params: a
# changed study asks for other cells, and never for these again. Its shell line is frozen: editing
# it measures everything anew.
#
# More threads than any machine has are clipped to --cores, so nothing runs beside a timed cell. A scheduler is not
# asked for them: there a cell's resources count, and in a job of several cells the threads make them one after another.
# `exec` makes the harness a child of Snakemake itself, with which it then ends.


rule speed:
    output:
        "results/{study}/speed/{label}/{cell}.json",
    log:
        "logs/{study}/speed/{label}/{cell}.log",
    priority: shuffled
    threads: 1024
    resources:
        **asked("speed/{label}/{cell}.json"),
    shell:
        "exec python -m harness speed --study {config[study]} --cell {wildcards.label}/{wildcards.cell}"
        " --output {output} --log {log} --die-with-parent $PPID"


rule training:
    output:
        "results/{study}/training/{label}/{cell}.json",
    log:
        "logs/{study}/training/{label}/{cell}.log",
    priority: shuffled
    threads: training_threads
    resources:
        **asked("training/{label}/{cell}.json"),
    shell:
        "exec python -m harness train --study {config[study]} --cell {wildcards.label}/{wildcards.cell}"
        " --output {output} --log {log} --die-with-parent $PPID"


# The convolution operator by itself, for studies with `operator: true`; alone, like a timed cell.
rule operator:
    output:
        "results/{study}/operator.json",
    log:
        "logs/{study}/operator.log",
    threads: 1024
    resources:
        **asked("operator.json"),
    shell:
        "exec python -m harness speed --study {config[study]} --cell operator"
        " --output {output} --log {log} --die-with-parent $PPID"
