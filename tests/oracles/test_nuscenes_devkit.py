"""Our nuScenes reader and writer against the official devkit (extra package, see the Makefile)."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from toy_nuscenes import recording, without, write

from gwm.pipelines.world import write_world
from gwm.shards.nuscenes.can_bus import read_can_bus
from gwm.shards.nuscenes.splits import OFFICIAL
from gwm.shards.nuscenes.tables import read_scenes
from gwm.shards.sources.world import WorldSource

devkit = pytest.importorskip("nuscenes.nuscenes")
can_bus_api = pytest.importorskip("nuscenes.can_bus.can_bus_api")
splits = pytest.importorskip("nuscenes.utils.splits")


@pytest.fixture(scope="module", params=["toy", "world"])
def dataset(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuscenes") / request.param
    if request.param == "world":
        write_world("nuscenes", WorldSource(2, frames=18, size=(64, 36), rig="nuscenes", junctions=True), folder)
        return folder
    other = without(recording("scene-0061", 3), "back", 1.1, 1.4)
    write(folder, recording(), replace(other, can_bus={}))
    return folder


@pytest.fixture(scope="module")
def official(dataset):
    return devkit.NuScenes("v1.0-mini", str(dataset), verbose=False)


def same_pose(row, translation, rotation):
    assert np.array_equal(translation, row["translation"])
    assert np.allclose(rotation, row["rotation"], rtol=0, atol=1e-15)


def test_what_we_write_the_devkit_reads_as_we_do(dataset, official):
    scenes = list(read_scenes(dataset / "v1.0-mini"))
    assert sorted(row["name"] for row in official.scene) == [scene.name for scene in scenes]
    seen = 0
    for scene in scenes:
        row = official.get("scene", scene.token)
        log = official.get("log", row["log_token"])
        assert (row["name"], row["description"]) == (scene.name, scene.description)
        assert (log["location"], log["date_captured"]) == (scene.location, scene.date)
        for sensor in [*scene.cameras.values(), scene.lidar]:
            shots = sensor.shots
            for i, token in enumerate(shots.tokens):
                data = official.get("sample_data", token.decode())
                assert data["channel"] == sensor.channel
                assert (data["filename"], data["timestamp"], data["is_key_frame"], data["sample_token"]) == (
                    shots.file(i), shots.micros[i], shots.key[i], shots.samples[i].decode(),
                )  # fmt: skip
                assert (data["width"], data["height"]) == (sensor.width, sensor.height)
                same_pose(
                    official.get("ego_pose", data["ego_pose_token"]), shots.ego.translation[i], shots.ego.rotation[i]
                )
                calibration = official.get("calibrated_sensor", data["calibrated_sensor_token"])
                same_pose(calibration, sensor.translation, sensor.rotation)
                assert np.array_equal(sensor.intrinsics.ravel(), np.ravel(calibration["camera_intrinsic"]))
                seen += 1
    assert seen == len(official.sample_data)


def test_the_devkits_chains_are_our_order(dataset, official):
    for scene in read_scenes(dataset / "v1.0-mini"):
        row, samples = official.get("scene", scene.token), []
        name = row["first_sample_token"]
        while name:
            samples.append(name)
            name = official.get("sample", name)["next"]
        assert samples == [sample.decode() for sample in scene.samples]
        assert samples[-1] == row["last_sample_token"]
        first = official.get("sample", samples[0])
        for sensor in scene.cameras.values():
            name, files = first["data"][sensor.channel], []
            while name:
                data = official.get("sample_data", name)
                files.append(data["filename"])
                name = data["next"]
            assert files == [sensor.shots.file(i) for i in range(len(files))]
            assert len(files) == len(sensor.shots.files)


def test_the_devkits_matrices_are_ours(dataset, official):
    """The pose of a camera in the world, by the devkit's own rotations."""
    (scene, _) = read_scenes(dataset / "v1.0-mini")
    for sensor in scene.cameras.values():
        data = official.get("sample_data", sensor.shots.tokens[7].decode())
        found = np.eye(4)
        for table in ("ego_pose", "calibrated_sensor"):
            row = official.get(table, data[f"{table}_token"])
            found = found @ devkit.transform_matrix(row["translation"], devkit.Quaternion(row["rotation"]))
        assert np.allclose(sensor.shots.ego.poses[7] @ sensor.extrinsics, found, rtol=0, atol=1e-9)


def test_can_bus_messages(dataset):
    api = can_bus_api.NuScenesCanBus(dataroot=str(dataset))
    scene = sorted(file.name.partition("_")[0] for file in (dataset / "can_bus").iterdir())[0]
    ours = read_can_bus(dataset, scene)
    poses = api.get_messages(scene, "pose", print_warnings=False)
    assert len(poses) > 30
    assert [row["utime"] for row in poses] == ours.pose.micros.tolist()
    assert np.array_equal([row["pos"] for row in poses], ours.pose.translation)
    assert np.allclose([row["orientation"] for row in poses], ours.pose.rotation, rtol=0, atol=1e-15)
    assert np.array_equal([row["vel"][0] for row in poses], ours.speeds["pose"].values)
    angles = api.get_messages(scene, "steeranglefeedback")
    assert [row["value"] for row in angles] == ours.steering["steeranglefeedback"].values.tolist()
    monitor = api.get_messages(scene, "vehicle_monitor")
    assert np.allclose([row["vehicle_speed"] / 3.6 for row in monitor], ours.speeds["vehicle_monitor"].values)


def test_can_bus_missing(tmp_path):
    write(tmp_path, replace(recording("scene-0061", 3), can_bus={}))
    assert set(read_can_bus(tmp_path, "scene-0061").state.values()) == {"missing"}


def test_splits_are_the_official_ones():
    official = defaultdict(set, {name: set(names) for name, names in splits.create_splits_scenes().items()})
    for name, scenes in OFFICIAL.items():
        assert set(scenes) == official[name]
