# A study's cells, each one job and one record; then one analysis; then one document.
#
#   snakemake --cores 8 reports/scaling.pdf
#   snakemake reports/scaling.pdf --cores 8 --config study=movielens
from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        "reports/scaling.pdf",
    localrule: True
