# From records to the document. These rules take seconds; their params make them run again when
# the code that they stand for changes.


rule manifest:
    output:
        "results/{study}/study.json",
    log:
        "logs/{study}/manifest.log",
    localrule: True
    params:
        digest=MANIFEST_DIGEST,
        study=config["study"],
    shell:
        "exec python -m harness manifest {params.study} --output {output} 2> {log}"


rule analyse:
    input:
        f"results/{STUDY.name}/study.json",
        str(GAPS),
        CELLS,
        OPERATOR,
    output:
        str(ANALYSIS),
    log:
        f"logs/{STUDY.name}/analyse.log",
    localrule: True
    params:
        source=source_digest(["harness.analysis"]),
    shell:
        f"exec python -m harness analyse results/{STUDY.name} --output {{output}} 2> {{log}}"


rule report:
    input:
        analysis=str(ANALYSIS),
        template=resource("reports/scaling.typ"),
        words=sorted(
            str(path)
            for path in (ROOT / "harness" / "report").rglob("*")
            if path.suffix in {".typ", ".html", ".css", ".js"}
        ),
    output:
        document="reports/scaling.pdf",
        page="reports/scaling.html",
    log:
        f"logs/{STUDY.name}/report.log",
    localrule: True
    params:
        source=source_digest(["harness.report"]),
    shell:
        "exec python -m harness report {input.analysis} --output {output.document} > {log} 2>&1"
