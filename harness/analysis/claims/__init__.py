"""The rules that decide claims, one file each: a file here is a rule, found by its place.

A rule's name is its file's, `-` written as `_`; files that begin with `_` are not rules. Each defines `RULE`
(harness/analysis/ruling.py); `_template.py` is one to copy. A package brings a rule with an entry point of the group
`hyenarec_bench.rules`. The sentences and thresholds that rules are applied to are cards: workflow/claims/*.yaml.
"""
