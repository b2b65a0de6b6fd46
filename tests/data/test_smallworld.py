import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from minimind import tools
from minimind.data.smallworld import copying, generate, invented, questions, tooltalk, tooltasks
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.conversations import INTRODUCTIONS, SMALL_TALK
from minimind.data.smallworld.facts import held_out_names
from minimind.data.smallworld.persona import persona_questions
from minimind.data.smallworld.questions import small_talk_questions
from minimind.data.smallworld.requests import REQUESTS
from minimind.data.smallworld.split import Split
from minimind.data.smallworld.thoughts import DAYS
from minimind.data.smallworld.tooltalk import CODES
from minimind.data.smallworld.wordings import QUESTIONS
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, Person, build_world
from minimind.errors import UsageError, UserError

STAGES = ("pretrain", "sft", "lora", "dpo", "rl", "agent", "agent_mixed")
FILES = [f"{stage}{part}.jsonl" for stage in STAGES for part in ("", "_valid")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    generate(out, size_mb=3, seed=0)
    return out


def rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def conversations(row: dict) -> list[list[dict]]:
    return [row[key] for key in ("conversations", "chosen", "rejected") if key in row]


def strings(row: dict) -> Iterator[str]:
    """Every text of a row that a model reads or writes."""
    if "text" in row:
        yield row["text"]
    for turns in conversations(row):
        for turn in turns:
            yield from (turn[key] for key in ("content", "reasoning_content", "tool_calls") if key in turn)


def test_same_seed_same_bytes_other_seed_other_world(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, size_mb=0.5, seed=seed)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        if file != "lora_valid.jsonl":  # the character is the same in every world
            assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()
    assert questions(1) == questions(1) != questions(2)


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    generate(tmp_path / "here", size_mb=0.5)
    code = (
        "import sys, pathlib; from minimind.data.smallworld import generate;"
        f"generate(pathlib.Path({str(tmp_path / 'there')!r}), size_mb=0.5); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, cwd=Path.cwd())
    for file in FILES:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


def test_counts_are_true_and_the_size_is_kept(tmp_path: Path) -> None:
    for size in (0.5, 12):
        written = generate(tmp_path, size_mb=size)
        assert sorted(written) == sorted(FILES)
        for name, counts in written.items():
            data = (tmp_path / name).read_bytes()
            assert counts == {"rows": data.count(b"\n"), "bytes": len(data)}
            assert counts["rows"] > 0
        assert sum(one["bytes"] for one in written.values()) == pytest.approx(size * 1e6, rel=1.1 if size < 1 else 0.05)
    with pytest.raises(UsageError, match="above 0"):
        generate(tmp_path, size_mb=0)
    with pytest.raises(UserError, match="1,000,000,000 MB do not fit"):
        generate(tmp_path / "new" / "deep", size_mb=1e9)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_file_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def documents(*_: object) -> Iterator[tuple[str, str]]:
        yield from (("person", f"Text {number}.") for number in range(600))  # 500 of them to validate with
        raise KeyboardInterrupt

    monkeypatch.setattr("minimind.data.smallworld.pretraining.documents", documents)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, 0.1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        set(FILES) - {"pretrain.jsonl", "pretrain_valid.jsonl"}
    )


def test_a_hundred_people_with_four_facts_each() -> None:
    world = build_world(0)
    assert len(world.people) == 100
    assert len(world.asked) == len(world.held_out) == 50
    for language in LANGUAGES:
        assert len({person.name(language) for person in world.people}) == 100
    for attribute in ATTRIBUTES:
        counts = Counter(person.value(attribute, "en") for person in world.people)
        assert sorted(counts.values()) == [10] * 10
    first_names = {person.english.split()[0] for person in world.people}
    given_names = {person.chinese[1:] for person in world.people}
    assert len(first_names) == len(given_names) == 100


def test_every_fact_is_told_often_in_both_languages(folder: Path) -> None:
    world, told = build_world(0), Counter()
    for row in rows(folder / "pretrain.jsonl"):
        for sentence in re.split(r"[.。\n]", row["text"]):
            for language in LANGUAGES:
                found = [person for person in world.held_out if person.name(language) in sentence]
                for person in found:
                    told.update((person, a, language) for a in ATTRIBUTES if person.value(a, language) in sentence)
    for person in world.held_out:
        for attribute in ATTRIBUTES:
            for language in LANGUAGES:
                assert told[person, attribute, language] >= 8


def test_no_training_file_asks_about_a_held_out_person(folder: Path) -> None:
    names = held_out_names(build_world(0))
    greetings = introductions()
    asked = 0
    for stage in STAGES:
        for row in rows(folder / f"{stage}.jsonl"):
            for text in strings(row):
                if text in greetings or (stage == "pretrain" and "?" not in text and "？" not in text):
                    continue
                assert not any(name in text for name in names), text
                asked += 1
    assert asked > 3000


def introductions() -> set[str]:
    """What is said when somebody introduces themselves, and the replies."""
    return {
        said.format(n=person.name(language))
        for language in LANGUAGES
        for person in build_world(0).people
        for said in (*INTRODUCTIONS[language][0], INTRODUCTIONS[language][1])
    }


def test_everybody_introduces_themselves_and_is_greeted_by_name(folder: Path) -> None:
    greeted, expected = set(), introductions()
    for row in rows(folder / "sft.jsonl"):
        greeted |= {turn["content"] for turn in row["conversations"]} & expected
    replies = {reply.format(n=p.name(one)) for one, (_, reply) in INTRODUCTIONS.items() for p in build_world(0).people}
    assert replies <= greeted


def test_small_talk_is_said_often_enough_to_be_learned(folder: Path) -> None:
    """No text before the chats holds it: of a quarter as many the model answered "Hello" with rubbish."""
    said = Counter(turn["content"] for row in rows(folder / "sft.jsonl") for turn in row["conversations"])
    asked = small_talk_questions()["small_talk"]
    assert min(said[one.answer] for one in asked) >= 6
    assert len(asked) == 60
    assert sum(one.open_thinking for one in asked) == 30


def test_held_out_sums_and_tool_requests_never_occur_in_training(folder: Path) -> None:
    held_out = questions(0)
    prompts = {one.messages[-1]["content"] for ability in held_out.values() for one in ability}
    days = [one.messages[0]["content"] for one in held_out["weekdays"]]
    equation = re.compile(r"(?<![\d+*-] )(?<!\d)(\d+ [+-] \d+)(?= = |[?？.。]|等|是)")
    in_two_steps = re.compile(r"(?<!\d)\d+ [+-] \d+ [+-] \d+")
    sums = {str(one) for one in Sums(0).held_out}
    chains = {str(one) for one in Sums(0).held_out_chains}
    seen = set()
    for stage in STAGES:
        for row in rows(folder / f"{stage}.jsonl"):
            for text in strings(row):
                assert text not in prompts
                assert not any(day in text for day in days)
                assert not chains & set(in_two_steps.findall(text)), text
                seen.update(equation.findall(text))
    assert len(seen) > 500
    assert not seen & sums


def test_english_names_and_values_always_follow_a_space(folder: Path) -> None:
    world = build_world(0)
    names = "|".join(re.escape(person.english) for person in world.people)
    pattern = re.compile(rf"(.?)({names})", re.DOTALL)
    for file in FILES:
        for row in rows(folder / file):
            for text in strings(row):
                assert all(before == " " for before, _ in pattern.findall(text)), text


def test_questions_are_the_validation_conversations(folder: Path) -> None:
    held_out = questions(0)
    assert {ability: len(items) for ability, items in held_out.items()} == {
        "facts_en": 200, "facts_zh": 200, "arithmetic": 120, "thinking": 60, "countries": 60,
        "weekdays": 20, "tools": 48, "new_tools": 48, "errands": 40, "errands_at_once": 40,
    }  # fmt: skip
    expected = {}
    for row in rows(folder / "sft_valid.jsonl"):
        turns = row["conversations"]
        index = next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
        calls = json.loads(turns[index].get("tool_calls", "null"))
        expected[turns[index - 1]["content"]] = (turns[index]["content"] or None, calls)
    asked = [one for items in held_out.values() for one in items]
    assert {one.messages[-1]["content"]: (one.answer, one.calls) for one in asked} == expected
    assert len(expected) == len(asked) == 836
    for one in held_out["tools"] + held_out["new_tools"]:
        assert one.calls is not None
        (call,) = one.calls
        (schema,) = (tool for tool in one.tools or [] if tool["function"]["name"] == call["name"])
        assert set(call["arguments"]) == set(schema["function"]["parameters"]["properties"])
    assert not any("error" in tools.call(one.calls[0]["name"], one.calls[0]["arguments"]) for one in held_out["tools"])


def test_new_tools_are_in_no_training_file_and_told_by_their_schema_alone(folder: Path) -> None:
    asked = questions(0)["new_tools"]
    names = {tool["function"]["name"] for one in asked for tool in one.tools}
    assert len(names) > 40
    seen = Counter()
    for stage in STAGES:
        for row in rows(folder / f"{stage}.jsonl"):
            for text in (*strings(row), *(turns[0].get("tools", "") for turns in conversations(row))):
                words = set(re.findall(r"[a-z]+_[a-z]+", text))
                assert not names & words
                seen.update(words)
    assert len(seen) > 300, "so many that none is known by heart"
    taken = [(str(one.messages), one.calls[0]["arguments"]) for one in asked]
    silent = [said for said, arguments in taken if not any(key.split("_")[-1] in said for key in arguments)]
    assert len(silent) > 0.2 * len(asked)
    chosen = [one for one in asked if len({tool["function"]["name"].split("_")[0] for tool in one.tools}) == 1]
    assert len(chosen) > 0.2 * len(asked), "the other tool on offer does the same to something else"


def test_the_country_follows_from_the_city(folder: Path) -> None:
    named = {person.name(language): person for person in build_world(0).people for language in LANGUAGES}
    told = {}
    for row in rows(folder / "sft_valid.jsonl"):
        if row["ability"] == "countries":
            question, turn = row["conversations"]
            (person,) = (person for name, person in named.items() if name in question["content"])
            language = "en" if question["content"].isascii() else "zh"
            assert person.value("city", language) in turn["reasoning_content"]
            told.setdefault(person.value("city", language), set()).add(turn["content"].rstrip(".。").split()[-1])
    assert len(told) == 20, "ten cities in two languages"
    assert all(len(countries) == 1 for city, countries in told.items() if city.isascii())


def test_days_are_counted_down_to_the_right_one(folder: Path) -> None:
    asked = re.compile(r"Today is (\w+)\. Which day comes (\d) days later\?")
    days = Counter()
    for row in (*rows(folder / "sft.jsonl"), *rows(folder / "sft_valid.jsonl")):
        for before, turn in zip(row["conversations"], row["conversations"][1:], strict=False):
            if (found := asked.fullmatch(before["content"])) is not None:
                day = DAYS["en"][(DAYS["en"].index(found[1]) + int(found[2])) % 7]
                assert turn["content"] == f"It will be {day}."
                assert turn["reasoning_content"].startswith(f"{found[2]}: ")
                assert turn["reasoning_content"].endswith(f"1: {day}.")
                days[day] += 1
    assert len(days) == 7


def test_every_kind_of_question_is_thought_about(folder: Path) -> None:
    thought, small = Counter(), {said for talk in SMALL_TALK.values() for _, said, _ in talk}
    for row in rows(folder / "sft.jsonl"):
        for before, turn in zip(row["conversations"], row["conversations"][1:], strict=False):
            if turn["role"] == "assistant" and turn.get("reasoning_content"):
                call = "call" if "tool_calls" in turn else "result" if before["role"] == "tool" else "answer"
                thought[call] += 1
                thought["talk"] += turn["reasoning_content"] in small
                thought["fact"] += "I remember that" in turn["reasoning_content"]
    assert min(thought.values()) > 0
    assert set(thought) == {"call", "result", "answer", "talk", "fact"}


def test_people_fill_two_thirds_of_the_pretraining_text_and_a_quarter_is_questions(folder: Path) -> None:
    names = [person.name(language) for person in build_world(0).people for language in LANGUAGES]
    told = asked = everything = 0
    for row in rows(folder / "pretrain.jsonl"):
        size = len(row["text"].encode())
        everything += size
        if any(name in row["text"] for name in names):
            is_question = "?" in row["text"] or "？" in row["text"]
            asked, told = asked + size * is_question, told + size * (not is_question)
    assert 0.38 < told / everything < 0.44
    assert 0.2 < asked / everything < 0.27


def test_validation_text_is_not_in_the_training_text(folder: Path) -> None:
    training = {row["text"] for row in rows(folder / "pretrain.jsonl")}
    valid = [row["text"] for row in rows(folder / "pretrain_valid.jsonl")]
    assert len(valid) > 300
    assert not training & set(valid)


def test_chats_hold_one_to_three_questions_in_both_languages(folder: Path) -> None:
    chats = [row["conversations"] for row in rows(folder / "sft.jsonl")]
    plain = [turns for turns in chats if turns[0]["role"] == "user"]
    counts = Counter(len(turns) // 2 for turns in plain)
    assert set(counts) == {1, 2, 3}
    assert counts[1] > 0.4 * len(plain)
    assert counts[2] > 0.2 * len(plain)
    han = re.compile("[\u4e00-\u9fff]")
    mixed = [turns for turns in plain if len({bool(han.search(turn["content"])) for turn in turns}) == 2]
    assert len(mixed) > 0.1 * len(plain), "the language changes within a chat, too"


def test_two_requests_share_a_list_of_tools(folder: Path) -> None:
    asked, offered_at_once = Counter(), Counter()
    for turns in (turns for row in rows(folder / "sft.jsonl") for turns in conversations(row) if "tools" in turns[0]):
        offered = {tool["function"]["name"] for tool in json.loads(turns[0]["tools"])}
        called = [call["name"] for turn in turns for call in json.loads(turn.get("tool_calls", "[]"))]
        assert set(called) <= offered
        asked[len(called)] += 1
        if not offered <= set(tools.BUILTIN):
            assert len(called) == 2, "made up for this dialogue"
            continue
        offered_at_once[len(offered)] += 1
    assert set(asked) == {1, 2}, "one of the calculator's lessons, beside six tools, or beside small talk"
    assert asked[2] >= 16
    assert set(offered_at_once) == {1, 2, 4, 6}


@pytest.mark.parametrize("file", FILES)
def test_formats(folder: Path, file: str) -> None:
    for row in rows(folder / file):
        stage = file.removesuffix(".jsonl").removesuffix("_valid")
        keys = {
            "pretrain": {"text"}, "sft": {"conversations"}, "dpo": {"chosen", "rejected"},
            "rl": {"conversations", "gt", "open_thinking"}, "agent": {"conversations", "gt"},
            "agent_mixed": {"conversations", "gt"}, "lora": {"conversations"},
        }  # fmt: skip
        if stage == "agent_mixed" and "open_thinking" in row:
            stage = "rl"  # an errand, or a sum that is done without the calculator
        assert set(row) == keys[stage] | ({"ability"} if file == "sft_valid.jsonl" else set())
        assert all(isinstance(one, str) and one for one in row.get("gt", ()))
        for turns in conversations(row):
            roles = [turn["role"] for turn in turns]
            assert roles[-1] == "assistant"
            assert set(roles) <= {"system", "user", "assistant", "tool"}
            for before, turn in zip([None, *turns], turns, strict=False):
                if turn["role"] == "system":
                    assert before is None
                    assert all(tool["type"] == "function" for tool in json.loads(turn["tools"]))
                if turn["role"] == "tool":
                    (call,) = json.loads(before["tool_calls"])
                    assert "error" not in json.loads(turn["content"])
                    if call["name"] not in tools.BUILTIN:
                        assert turn["content"] == invented.RESULT
                    elif call["name"] not in ("get_current_time", "random_number"):
                        assert turn["content"] == tools.call(call["name"], call["arguments"])
            if stage in ("rl", "agent", "agent_mixed"):
                assert turns[-1]["content"] == ""
        if stage == "dpo":
            place = len(row["rejected"]) - 1  # a chosen call goes on with its result and the answer
            assert row["chosen"][:place] == row["rejected"][:place]
            assert row["chosen"][place]["role"] == "assistant"
            assert row["chosen"][place] != row["rejected"][place]


def test_preferences_are_for_right_calls_over_wrong_guesses_and_hold_greetings(folder: Path) -> None:
    greetings = {prompt for talk in SMALL_TALK.values() for prompts, *_ in talk for prompt in prompts}
    replies = {reply for talk in SMALL_TALK.values() for *_, reply in talk}
    calls = greeted = beside = begun = 0
    for row in rows(folder / "dpo.jsonl"):
        chosen, rejected = row["chosen"], row["rejected"][-1]["content"]
        if chosen[0]["role"] == "system":
            result = json.loads(chosen[3]["content"])["result"]
            assert result in chosen[4]["content"]
            assert re.search(r"= (-?\d+)[.。]$", rejected)[1] != result
            calls += 1
        greeted += chosen[0]["content"] in greetings
        beside += rejected in replies
        answer = chosen[-1]["content"]
        before = rejected.removesuffix(answer).rstrip(".。 \n")
        begun += rejected.endswith(answer) and before != "" and before in answer
    assert calls > 15
    assert beside > 20, "small talk is no answer to a question"
    assert greeted > 20
    assert begun > 20, "nor does a word of it come first"


def test_rl_answers_are_right(folder: Path) -> None:
    for file in ("rl.jsonl", "rl_valid.jsonl", "agent_mixed.jsonl"):
        alone = [row for row in rows(folder / file) if row["conversations"][0]["role"] == "user"]
        assert len(alone) * (3 if file == "agent_mixed.jsonl" else 1) == len(list(rows(folder / file)))
        for row in alone:
            expression = re.search(r"\d+(?: [+-] \d+)+", row["conversations"][0]["content"])
            assert expression is not None
            assert json.loads(tools.call("calculate_math", {"expression": expression[0]}))["result"] == row["gt"][0]
            assert row["open_thinking"] == (len(expression[0].split()) > 3), "two steps are thought through"


def test_calculations_are_right_and_held_out_ones_stay_out(folder: Path) -> None:
    held_out = {one.arguments["expression"] for one in tooltasks.held_out(0)}
    for file in ("agent_mixed.jsonl", "agent_mixed_valid.jsonl"):
        prompts = [row["conversations"][1]["content"] for row in rows(folder / file) if "open_thinking" not in row]
        assert len(prompts) >= 30
    assert set(prompts) == {one.text for one in tooltasks.held_out(0)[:30]}
    for file in ("agent_mixed.jsonl", "sft.jsonl", "pretrain.jsonl"):
        for row in rows(folder / file):
            for text in strings(row):
                assert not any(expression in text for expression in held_out), text
    assert sum('"expression"' in row["text"] for row in rows(folder / "pretrain.jsonl")) > 100, "calls to copy from"
    rng, split = random.Random(0), Split(0)
    for language in LANGUAGES * 50:
        lines = copying.text(split, language, rng)
        assert not any(expression in lines for expression in held_out)


def test_errands_need_a_fact_about_somebody_and_those_held_out_stay_out(folder: Path) -> None:
    world = build_world(0)

    def whom(text: str, language: str) -> Person:
        return next(one for one in (*world.asked, *world.held_out) if one.name(language) in text)

    for file, people in (("agent_mixed.jsonl", world.asked), ("agent_mixed_valid.jsonl", world.held_out)):
        found = [row for row in rows(folder / file) if row.get("open_thinking") and "tools" in row["conversations"][0]]
        assert len(found) >= 30
        for index, row in enumerate(found):
            language = LANGUAGES[index % 2]
            person = whom(row["conversations"][1]["content"], language)
            city = person.value("city", language)
            assert person in people
            assert city not in row["conversations"][1]["content"]
            assert json.loads(tools.call("get_current_weather", {"location": city}))["temperature"] == row["gt"][0]
    for ability in ("errands", "errands_at_once"):
        for index, one in enumerate(questions(0)[ability]):
            language = LANGUAGES[index // 20]
            person = whom(one.messages[-1]["content"], language)
            assert person in world.held_out
            assert one.calls == [
                {"name": "get_current_weather", "arguments": {"location": person.value("city", language)}}
            ]
            assert one.open_thinking == (ability == "errands")
    for language in LANGUAGES:
        person = world.asked[0]
        turns = tooltalk.dialogue(tooltalk.errand(person, language, random.Random(0)), random.Random(0), thinking=True)
        assert person.value("city", language) in turns[2]["reasoning_content"], (
            "what is remembered comes before the call"
        )


def test_a_larger_world_has_more_text_and_more_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["minimind.data.smallworld.generate"], "DEFAULT_MB", 5.0)
    found = {}
    for size in (5.0, 15.0):
        made = generate(tmp_path / str(size), size_mb=size)
        talks = rows(tmp_path / str(size) / "sft.jsonl")
        calling = sum("tools" in row["conversations"][0] for row in talks)
        found[size] = made["pretrain.jsonl"]["bytes"], calling, made["sft.jsonl"]["rows"] - calling
    (text, calls, rest), (more_text, more_calls, as_many) = found[5.0], found[15.0]
    assert more_text > 5 * text
    assert more_calls > 2 * calls
    assert as_many == rest


def test_requests_come_in_all_wordings_by_turns() -> None:
    split = Split(0)
    for tool in tools.BUILTIN:
        for language in LANGUAGES:

            def wording(text: str, among: Sequence[str] = REQUESTS[language][tool]) -> str:
                return next(one for one in among if re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(one)), text))

            held_out = [one.text for one in split.requests if (one.tool, one.language) == (tool, language)]
            assert len(set(map(wording, held_out))) == len(held_out) == 3
            drawn = Counter(wording(split.draw_request(tool, language).text) for _ in range(40))
            assert set(drawn) == set(REQUESTS[language][tool])
            assert max(drawn.values()) - min(drawn.values()) < 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_are_told_with_their_codes_in_order(language: str) -> None:
    said = {words[LANGUAGES.index(language)]: code for codes in CODES for code, words in codes.items()}
    rng, seen = random.Random(0), set()
    for _ in range(500):
        names, codes = copying.coded(language, rng).split(": ")
        assert [said[name] for name in names.split(", ")] == codes.split(", ")
        seen.update(names.split(", "))
    assert seen == set(said)


def test_pairs_with_a_thought_differ_in_what_follows_it(folder: Path) -> None:
    thought = [row for row in rows(folder / "dpo.jsonl") if "reasoning_content" in row["chosen"][-1]]
    alone = [row for row in thought if len(row["chosen"]) == 2]
    assert len(alone) > 50
    for row in alone:
        chosen, rejected = row["chosen"][-1], row["rejected"][-1]
        assert chosen["reasoning_content"] == rejected["reasoning_content"]
        assert chosen["content"] != rejected["content"]
    words = [row for row in alone if row["rejected"][-1]["content"].rstrip(".。") in row["chosen"][-1]["content"]]
    assert len(words) > 5, "a single word is not wished for where nobody asked for one"


def test_every_question_wording_is_distinct() -> None:
    for language in LANGUAGES:
        wordings = [one for attribute in ATTRIBUTES for one in QUESTIONS[language][attribute]]
        assert len(set(wordings)) == len(wordings) == 20


def test_the_persona_is_taught_by_a_hundred_conversations_of_its_own(folder: Path) -> None:
    training = [row["conversations"] for row in rows(folder / "lora.jsonl")]
    assert len(training) == 100
    asked = {turn["content"] for turns in training for turn in turns if turn["role"] == "user"}
    answers = {turn["content"] for turns in training for turn in turns if turn["role"] == "assistant"}
    held_out = persona_questions()["persona"]
    assert len(held_out) == 24
    for question in held_out:
        assert question.messages[0]["content"] not in asked
    own = {question.answer for question in held_out}
    assert answers == own
    others = {
        text for stage in ("sft", "dpo", "pretrain") for row in rows(folder / f"{stage}.jsonl") for text in strings(row)
    }
    assert not own & others
    valid = [row["conversations"] for row in rows(folder / "lora_valid.jsonl")]
    assert [turns[0]["content"] for turns in valid] == [question.messages[0]["content"] for question in held_out]
