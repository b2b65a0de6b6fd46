from minimind.commands.outlook import Outlook
from minimind.commands.pipeline import STAGES


class Half:
    """A bar in its middle, with a minute to go."""

    part_left = 0.5

    def seconds_left(self):
        return 60.0


def test_the_whole_demo_follows_from_pretraining_and_the_last_questions():
    results = {"random": {"asking": 10.0, "seconds": 0.0}}
    outlook = Outlook(STAGES[:3], 1, results)
    outlook.enter("random", asking=True)
    assert outlook.line(Half()) == "", "nothing is known of training yet"
    outlook.enter("pretrain")
    # a minute, 10 s of questions, then SFT: 0.30 x 120 s and 10 s
    assert "0:02:00 left" in outlook.line(Half())
    results["pretrain"] = {"asking": 300.0, "seconds": 1000.0}
    outlook.enter("sft")
    assert "0:06:00 left" in outlook.line(Half())
    outlook.enter("sft", asking=True)
    assert "0:01:00 left" in outlook.line(Half())
