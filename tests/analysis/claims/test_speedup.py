import factories

from claims.studies import speed_study, verdict


def test_speedup_is_ruled_per_kernel(quiet):
    found = verdict(quiet, "speedup-6x")
    own = {v.variant: v for v in found.variants}
    assert own["sasrec-math"].verdict == "supported"
    assert own["sasrec-math"].interval[0] >= 6
    assert own["sasrec-sdpa"].verdict == "refuted"
    assert "within the measured lengths" in own["sasrec-sdpa"].detail
    assert found.overall.verdict == "refuted", "than attention: every kernel"
    assert "sasrec-math: supported" in found.overall.detail


def test_speedup_states_crossover_window_and_censoring(tmp_path):
    found = verdict(speed_study(tmp_path, oom={("sasrec-math", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-math")
    assert own.window == (256, 4096)
    assert "length 8,192 (oom)" in own.detail
    sdpa = next(v for v in found.variants if v.variant == "sasrec-sdpa")
    assert "hyenarec is faster than sasrec-sdpa at " in sdpa.detail
    assert "the estimates cross at about" in sdpa.detail


def test_speedup_is_not_refuted_while_lengths_are_missing(tmp_path):
    found = verdict(speed_study(tmp_path, absent={("sasrec-sdpa", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-sdpa")
    assert own.verdict == "inconclusive"
    assert "8,192" in own.missing[0]


def test_no_number_of_processes_replaces_a_length_out_of_memory(tmp_path):
    found = verdict(speed_study(tmp_path, oom={("sasrec-sdpa", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-sdpa")
    assert own.verdict == "inconclusive"
    assert own.interval[1] < 6
    assert own.sample_size is None


def test_speedup_inconclusive_with_noise_says_how_many_processes(tmp_path):
    found = verdict(speed_study(tmp_path, noise={"process_noise": 0.3}, rng_seed=5), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-math")
    assert own.verdict == "inconclusive"
    assert own.sample_size > 3


def test_no_speedup_without_the_control(tmp_path):
    absent = {("hyenarec", n) for n in factories.LENGTHS}
    found = speed_study(tmp_path, absent=absent)
    for claim in ("speedup-6x", "long-sequences"):
        own = verdict(found, claim).overall
        assert own.verdict == "inconclusive"
        assert any("A/A control" in what for what in own.missing)


def test_unpaired_lengths_are_named(tmp_path):
    found = verdict(speed_study(tmp_path, unpaired={("sasrec-math", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-math")
    assert "one after the other at 8,192" in own.detail
