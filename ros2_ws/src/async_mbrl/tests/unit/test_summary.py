"""The keys that scripts rely on, totals over restarts, policy lag, metrics, atomic files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import collection_rig as rig
import pytest

from async_mbrl.collection.account import Account, PolicyLag
from async_mbrl.collection.collector import CollectionConfig, Collector, EpisodeResult
from async_mbrl.collection.metrics import MetricsFile, metrics_record
from async_mbrl.collection.phases import Phase, RunSequence
from async_mbrl.collection.summary import RunFacts, build_summary, write_summary
from async_mbrl.core.run import RunFolder
from async_mbrl.core.snapshot import Version
from async_mbrl.core.transition import Mode

FACTS = RunFacts('reach', 'arm7', 'me_ppo', 3, 'jazzy', 'rmw_fastrtps_cpp', 'done', '', 10.5,
                 'true_positions')

CONTRACT: dict[str, Any] = {
    **dict.fromkeys(('task', 'robot', 'algorithm', 'schedule', 'seed', 'ros_distro', 'rmw',
                     'motion_time_s', 'robot_time_s', 'wall_time_s', 'data_time_ratio',
                     'learning_curve', 'respawns')),
    'transitions': ('collected', 'model_learner', 'policy_learner', 'lost'),
    'waiting_share': ('model_learner', 'policy_learner'),
    'updates_during_motion': ('model_learner', 'policy_learner'),
    'policy': ('versions_published', 'versions_applied', 'rejected', 'age_s', 'lag_versions'),
    'model': ('updates', 'epochs', 'validation_loss'),
    'control': ('rate_hz', 'ticks', 'late_ticks', 'jitter_ms', 'scheduler'),
    'safety': ('limit_violations_sent', 'interventions', 'faults'),
    'latency_ms': ('transition_to_learner', 'transition_to_first_use', 'policy_to_controller'),
    'evaluation': ('offline', 'live'),
}
PERCENTILES = {
    ('policy', 'age_s'): ('p50', 'p99'), ('policy', 'lag_versions'): ('p50', 'p99'),
    ('control', 'jitter_ms'): ('p50', 'p99', 'p999', 'max'),
    **{('latency_ms', name): ('p50', 'p99') for name in CONTRACT['latency_ms']},
}


def version(incarnation: int, counter: int) -> SimpleNamespace:
    return SimpleNamespace(incarnation=incarnation, counter=counter)


def controller(**changes: Any) -> SimpleNamespace:
    numbers = dict.fromkeys((
        'rate_hz', 'ticks', 'late_ticks', 'jitter_p50_ms', 'jitter_p99_ms', 'jitter_p999_ms',
        'jitter_max_ms', 'tick_p50_us', 'tick_p99_us', 'policies_applied', 'policies_rejected',
        'policy_age_s', 'policy_age_p50_s', 'policy_age_p99_s', 'policy_latency_p50_ms',
        'policy_latency_p99_ms', 'interventions', 'stale_holds'), 1)
    return SimpleNamespace(**{**numbers, 'fault': '', 'scheduler': 'SCHED_OTHER',
                              'policy_version': version(1, 3), **changes})


def learner(name: str, **changes: Any) -> SimpleNamespace:
    numbers = dict.fromkeys((
        'next_transition', 'transitions_recovered', 'updates', 'updates_in_motion',
        'transition_latency_p50_ms', 'transition_latency_p99_ms', 'first_use_latency_p50_ms',
        'first_use_latency_p99_ms'), 4)
    return SimpleNamespace(**{**numbers, 'name': name, 'session': 'a', 'reason': '', 'epochs': 1.5,
                              'version': version(1, 7), 'running_s': 10.0, 'waiting_s': 2.5,
                              'metric_names': ['validation_loss'], 'metric_values': [0.25],
                              **changes})


def collected() -> Collector:
    collector = Collector(rig.task(), CollectionConfig(), 0)
    command = collector.learning_command(0)
    collector.commanded(command, 0.0)
    for event in rig.episode(rig.task(), command):
        collector.take(event, event.time_s)
    return collector


def test_empty_run_has_all_keys_and_invents_nothing() -> None:
    summary = build_summary(FACTS, Collector(rig.task(), CollectionConfig(), 0), Account(), [])
    for key, fields in CONTRACT.items():
        assert key in summary
        for field in fields or ():
            assert field in summary[key], f'{key}.{field}'
    for (key, field), names in PERCENTILES.items():
        assert {name: summary[key][field][name] for name in names} == dict.fromkeys(names)
    assert summary['data_time_ratio'] is None and summary['transitions']['lost'] is None
    assert summary['safety']['limit_violations_sent'] is None
    assert summary['evaluation'] == {'offline': None, 'live': None, 'in_between': []}


def test_summary_of_a_run() -> None:
    collector, account = collected(), Account()
    account.heard_phase(Phase.LEARNING)
    account.heard_controller(controller(interventions=5))
    account.heard_controller(controller(interventions=2))   # restarted meanwhile
    account.heard_bridge(SimpleNamespace(
        commands_received=9, commands_refused=0, limit_violations=0, command_gap_p50_ms=2.0,
        command_gap_p99_ms=2.1, command_gap_p999_ms=2.2, command_gap_max_ms=3.0))
    account.heard_learner(learner('model_learner', transition_latency_p99_ms=9), 0.0)
    account.heard_learner(learner('policy_learner', next_transition=3), 0.0)
    account.heard_learner(learner('policy_learner', session='b', next_transition=3, running_s=5.0,
                                  waiting_s=5.0, version=version(2, 1)), 1.0)
    account.heard_phase(Phase.EVALUATING)
    account.heard_controller(controller(interventions=3, ticks=9, jitter_max_ms=50))
    command = collector.evaluation_command(1, rig.VERSION)
    collector.commanded(command, 0.0)
    results = [taken.result for event in rig.episode(rig.task(), command, at_goal=True)
               if (taken := collector.take(event, 0.0)).result]
    summary = build_summary(FACTS, collector, account, results)
    assert summary['transitions'] == {
        'collected': 4, 'model_learner': 4, 'policy_learner': 3, 'lost': 1, 'outstanding': None,
        'recovered': {'model_learner': 4, 'policy_learner': 8}}
    assert summary['updates_during_motion'] == {'model_learner': 4, 'policy_learner': 8}
    assert summary['control']['ticks'] == 1 and summary['control']['jitter_ms']['max'] == 1
    assert summary['control']['command_gap_ms']['max'] == 3.0
    assert summary['safety']['interventions'] == 8
    assert summary['takeover'] == {'steps': 0, 'rate': 0.0,
                                   'curve': collector.takeover_curve}
    assert summary['safety']['limit_violations_sent'] == 0
    assert summary['policy']['versions_published'] == 8 + 2
    assert summary['model'] == {'updates': 4, 'epochs': 1.5, 'validation_loss': 0.25}
    assert summary['waiting_share'] == {'model_learner': 0.25, 'policy_learner': 0.5}
    assert summary['latency_ms']['transition_to_learner']['p99'] == 9
    live = summary['evaluation']['live']
    assert live['episodes'] == 1 and live['success_rate'] == 1.0 and live['aborted'] == 0
    assert live['policy_version'] == '1.4' and live['judged_by'] == 'true_positions'
    assert summary['data_time_ratio'] == pytest.approx(10.5 / collector.robot_time_s)


def test_what_an_interrupted_run_has_not_confirmed_is_not_called_lost() -> None:
    account = Account()
    account.heard_learner(learner('model_learner', next_transition=3), 0.0)
    for phase, received, missing, lost, outstanding in (
            ('learning', 3, 0, 0, 1), ('failed', 3, 0, 1, None), ('failed', 3, 2, 3, None),
            ('done', 9, 0, 0, None)):
        account.heard_learner(learner('model_learner', next_transition=received), 0.0)
        facts = dataclasses.replace(FACTS, phase=phase, numbers_missing=missing)
        transitions = build_summary(facts, collected(), account, [])['transitions']
        assert (transitions['lost'], transitions['outstanding']) == (lost, outstanding)


def test_aborted_evaluation_episodes_are_counted_as_no_success() -> None:
    result = EpisodeResult(0, Mode.EVALUATION, 4, 1.0, 0.01, True, rig.VERSION)
    facts = dataclasses.replace(FACTS, evaluation_aborted=1)
    live = build_summary(facts, collected(), Account(), [result])['evaluation']['live']
    assert (live['episodes'], live['aborted'], live['success_rate']) == (1, 1, 0.5)
    live = build_summary(facts, collected(), Account(), [])['evaluation']['live']
    assert live['aborted'] == 1 and live['final_distance_m']['median'] is None


def test_summary_file_is_json_and_keeps_counted_restarts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_summary(folder, {'value': math.nan, 'respawns': {}})
    assert json.loads(folder.summary.read_text()) == {'value': None, 'respawns': {}}
    folder.summary.write_text('{"respawns": {"model_learner": 2}}')
    write_summary(folder, {'value': 1, 'respawns': {}})
    assert json.loads(folder.summary.read_text()) == {'value': 1, 'respawns': {'model_learner': 2}}
    assert [path.name for path in tmp_path.iterdir()] == ['summary.json']


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    collector, account = collected(), Account()
    sequence = RunSequence(CollectionConfig(), collector, 20.0)
    path = tmp_path / 'metrics.jsonl'
    for heard in (False, True):
        if heard:
            account.heard_controller(controller(jitter_p99_ms=math.inf))
            account.heard_learner(learner('model_learner'), 0.0)
        file = MetricsFile(path)   # as when the run is resumed
        file.write(metrics_record(collector, sequence, account, unix_s=1e9, now_s=101.0))
        file.close()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first['transitions'] == 4 and first['phase'] == 'waiting' and 'control' not in first
    assert second['control']['jitter_p99_ms'] is None
    assert second['model_learner']['validation_loss'] == 0.25
    assert second['return_mean'] == collector.learning_curve[0][1]


def test_policy_lag_is_interpolated_between_statuses() -> None:
    lag = PolicyLag()
    lag.published(0.0, Version(1, 10))
    lag.acted(0.25, Version(1, 9))    # 12.5 published by then
    lag.acted(0.30, Version(1, 14))   # ahead of what is known: no lag
    lag.acted(0.60, Version(1, 15))
    lag.published(0.5, Version(1, 15))
    assert lag.last == 0 and lag.percentile(0.99) == 3 and lag.percentile(0.5) == 0
    lag.published(1.0, Version(2, 3))   # the learner was restarted
    assert lag.last == 4
    assert PolicyLag().percentile(0.5) is None


def test_faults_are_told_once() -> None:
    account = Account()
    for state, reason in ((0, ''), (1, ''), (2, 'no heartbeat for 0.1 s'),
                          (2, 'no heartbeat for 0.2 s'), (1, '')):
        account.heard_guard(SimpleNamespace(state=state, reason=reason))
    account.heard_controller(controller(fault='three in a row'))
    account.heard_controller(controller(fault='three in a row'))
    assert account.faults == ['guard: no heartbeat for 0.1 s', 'controller: three in a row']
