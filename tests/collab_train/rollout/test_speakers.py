"""Who plays the user in a rollout."""

from collab_train.rollout.engines.models import open_user


def test_futures_of_different_candidates_draw_common_noise() -> None:
    assert open_user("http://127.0.0.1:9", max_tokens=8).common_noise
