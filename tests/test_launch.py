"""Starting a command in several processes."""

from gwm.pipelines.launch import inside_torchrun, launch


def test_every_process_runs_the_command_and_a_failure_is_told(capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not inside_torchrun()
    assert launch(2, ["--version"])
    assert len(capfd.readouterr().out.split()) == 2
    assert not launch(2, ["rollout", "--frames", "0"])
    assert capfd.readouterr().err.count("--frames 0 must lie between 1 and 6000") == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert inside_torchrun()
