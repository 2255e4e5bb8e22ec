"""Which prompts are nearly others, against each pair's words by themselves."""

import re

from hypothesis import given
from hypothesis import strategies as st

from asft_lightning.anchors.nearly_alike import nearly_among

TEXTS = st.lists(
    st.lists(st.sampled_from(["How", "can", "I", "mend", "socks?", "hats", ",", "a"]), max_size=6).map(" ".join), max_size=5
)


def share(one, other):
    words = [set(re.findall(r"\w+", text.lower())) for text in (one, other)]
    return len(words[0] & words[1]) / max(1, len(words[0] | words[1]))


@given(TEXTS, TEXTS)
def test_half_of_the_words_of_both_are_in_both(prompts, others):
    assert nearly_among(prompts, others) == [any(share(prompt, other) >= 0.5 for other in others) for prompt in prompts]
