"""The official splits of nuScenes by the numbers of their scenes."""

from __future__ import annotations

TRAIN = """
1-2 4-11 19-34 41-76 120-135 138-139 149-152 154-155 157-168 170-185 187-188 190-196 199-200 202-204 206-214
218-220 222 224-264 283-306 315-318 321 323-324 328 347-386 388-403 405-408 410-459 461-465 467-469 471-472
474-480 499-502 504-515 517-518 525-539 541-546 566 568 570-578 580 582-600 639-679 681 683-689 695-698 700-701
703-719 726-728 730-731 733-741 744 746-747 749-752 757-765 767-769 786-787 789-792 803-806 808-813 815-817
819-822 847-856 858 860-866 868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-992 994-1025
1044-1058 1074-1102 1104-1110
"""
VAL = """
3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775
777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073
"""
TEST = """
77-91 111-119 140 142-148 265-266 279-282 307-314 333-343 481-498 547-551 601-604 606-624 827-831 833-842
844-846 932-933 935-943 1026-1043
"""
TRAIN_DETECT = """
1-2 41-76 161-168 170-176 190-196 199-200 202-204 206-214 254-264 283-306 315-318 321 323-324 347-375 382
420-439 457-459 461-465 467-469 471-472 474-480 566 568 570-578 580 582-583 665-679 681 683-689 739-741 744
746-747 749-752 757-765 767-769 868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-991
1011-1025 1074-1102 1104-1105
"""
MINI_TRAIN = """
61 553 655 757 796 1077 1094 1100
"""
MINI_VAL = """
103 916
"""


def scene_names(ranges: str) -> tuple[str, ...]:
    """The names of scenes given as numbers and ranges of numbers: "7 9-10" is scene-0007, scene-0009, scene-0010."""
    names: list[str] = []
    for part in ranges.split():
        first, _, last = part.partition("-")
        names += [f"scene-{number:04d}" for number in range(int(first), int(last or first) + 1)]
    return tuple(names)


OFFICIAL = {
    "train": scene_names(TRAIN), "val": scene_names(VAL), "test": scene_names(TEST),
    "train_detect": scene_names(TRAIN_DETECT), "mini_train": scene_names(MINI_TRAIN), "mini_val": scene_names(MINI_VAL),
}  # fmt: skip
OFFICIAL["train_track"] = tuple(sorted({*OFFICIAL["train"]} - {*OFFICIAL["train_detect"]}))  # the other half of train
OURS = {"train": "train", "val": "val", "test": "test", "mini_train": "train", "mini_val": "val"}  # our name of each
SPLIT_OF = {name: split for split in ("train", "val", "test") for name in OFFICIAL[split]}
# Two of mini_train's scenes, 553 and 796, are "val" in v1.0-trainval.
MINI_SPLIT_OF = {name: OURS[split] for split in ("mini_train", "mini_val") for name in OFFICIAL[split]}


def split_of(version: str, scene: str) -> str | None:
    """Our split of a scene in a version of the dataset; None for a scene in no official list."""
    return (MINI_SPLIT_OF if version == "v1.0-mini" else SPLIT_OF).get(scene, SPLIT_OF.get(scene))
