"""What the base has read: exercises in copying, and the words of the workshop out of order.

A small model writes fluent letters long before it repeats a name without a fault. So it learns here
to find a fact in the question and to copy it: repeat a text, look a value up in a list, fill in a
form, tell a list in a sentence. No exercise asks for a letter. Contract: `exercise` draws from the
`random.Random` it is given and from nothing else.
"""

from collections.abc import Callable
from random import Random

from adire_assets.embedded.letters import facts
from adire_assets.embedded.letters.phrases import ASKED, LETTERS

Exercise = tuple[str, str]  # what is asked, what is answered

_SYLLABLES = {
    "en": facts.words(
        "a ba be bo da de du el fa fi ga go ha im jo ka ke la li lo ma mi mo na ne no ola pe ra "
        "ri ro sa se so ta te ti to un wa we ye yo za"
    ),
    "yo": facts.words(
        "à bá bẹ̀ bí dé dọ̀ dú ẹ̀ fẹ́ fọ gbà gbé ìjọ jí kà kẹ́ kú là lẹ́ lọ mọ́ mú ní nọ̀ ọ̀lá ṣe ṣọ́ "
        "rẹ̀ rọ̀ sí tá tọ́ tú wá wọ̀ yẹ yí"
    ),
    "zh": list(
        "东南西北天地水火木金土石云雨雪风花草鸟鱼马牛羊门窗桌书笔纸茶米油盐糖酒灯车船路桥城村"
    ),
}
_KEYS = {
    "en": facts.words(
        "guest room ticket seat book pupil teacher road house ship port train field farmer colour "
        "number sum date name place cloth order customer price pieces day bag box street"
    ),
    "yo": facts.words(
        "àlejò yàrá ìwé akẹ́kọ̀ọ́ olùkọ́ ọ̀nà ilé ọkọ̀ oko àgbẹ̀ àwọ̀ iye ọjọ́ orúkọ ibi aṣọ àṣẹ "
        "oníbàárà owó àpò àpótí òpópó"
    ),
    "zh": facts.words(
        "客人 房间 车票 座位 书名 学生 老师 道路 房子 船只 港口 火车 田地 农夫 颜色 号码 总数 时间 "
        "姓名 地点 布料 订单 客户 价格 数量 日期 袋子 箱子"
    ),
}
_SAID = {
    "en": {
        "repeat": ("Repeat this:", "Say this again:", "Copy this text."),
        "look up": ("What is the {}?", "Give me the {}.", "{}?"),
        "fill": ("Fill in the form.", "Put the values into the text.", "Complete this."),
        "tell": ("Tell this in a sentence.", "Write the list as a sentence."),
        "is": ("the {} is {}", "{1} is the {0}", "for {}: {}"),
        "join": (", ", ".", " "),
        "last": ("Which word is the last?", "Which word is the first?"),
    },
    "yo": {
        "repeat": ("Tún èyí sọ:", "Sọ èyí lẹ́ẹ̀kan sí i:", "Da ọ̀rọ̀ yìí kọ."),
        "look up": ("Kí ni {}?", "Fún mi ní {}.", "{}?"),
        "fill": ("Kún fọ́ọ̀mù náà.", "Fi àwọn iye sínú ọ̀rọ̀ náà.", "Parí èyí."),
        "tell": ("Sọ èyí ní gbólóhùn kan.", "Kọ àkọsílẹ̀ náà ní gbólóhùn."),
        "is": ("{} ni {}", "{1} ni {0}", "fún {}: {}"),
        "join": (", ", ".", " "),
        "last": ("Ọ̀rọ̀ wo ló kẹ́yìn?", "Ọ̀rọ̀ wo ló ṣáájú?"),
    },
    "zh": {
        "repeat": ("请重复：", "再说一遍：", "请抄写这段话。"),
        "look up": ("{}是什么？", "请告诉我{}。", "{}？"),
        "fill": ("请填写表格。", "把内容填入文字。", "请补全。"),
        "tell": ("请用一句话说出来。", "把清单写成一句话。"),
        "is": ("{}是{}", "{1}是{0}", "关于{}：{}"),
        "join": ("，", "。", ""),
        "last": ("最后一个词是什么？", "第一个词是什么？"),
    },
}


def _invented(random: Random, language: str) -> str:
    word = "".join(random.choices(_SYLLABLES[language], k=random.randint(1, 3)))
    return word if language == "zh" or random.random() < 0.4 else word.capitalize()


def _number(random: Random) -> str:
    number = random.randrange(10 ** random.randint(1, 6))
    return f"{number:,}" if random.random() < 0.3 else str(number)


def value(random: Random, language: str) -> str:
    """Something to copy: an invented name, a number, a sum, a day, a cloth, words."""
    space = "" if language == "zh" else " "
    draw: tuple[Callable[[], str], ...] = (
        lambda: space.join(_invented(random, language) for _ in range(random.randint(1, 3))),
        lambda: facts.name(random, language),
        lambda: _number(random),
        lambda: _number(random),
        lambda: facts.price(random, language),
        lambda: facts.day(random, language),
        lambda: facts.pattern(random, language),
        lambda: space.join(random.choices(_words(language), k=random.randint(1, 4))),
    )
    return random.choice(draw)()


def _words(language: str) -> list[str]:
    if language not in _WORDS:
        text = " ".join(_clauses(language)).replace("{", "").replace("}", "")
        _WORDS[language] = sorted(set(text if language == "zh" else text.split()))
    return _WORDS[language]


def _clauses(language: str) -> list[str]:
    """The workshop's sentences, cut at their commas and stops."""
    if language not in _CLAUSES:
        texts = [
            text
            for texts in (*ASKED[language].values(), *LETTERS[language].values())
            for text in ([texts] if isinstance(texts, str) else texts)
        ]
        for mark in ("，", "。", "：", ", ", ". ", ":", ".", ","):
            texts = [part for text in texts for part in text.split(mark)]
        _CLAUSES[language] = sorted({text.strip() for text in texts if text.strip()})
    return _CLAUSES[language]


_WORDS: dict[str, list[str]] = {}
_CLAUSES: dict[str, list[str]] = {}


def _clause(random: Random, language: str, keys: list[str]) -> str:
    """A clause of the workshop, its facts those of `keys`, which it uses up, or any value."""
    clause = random.choice(_clauses(language))
    while "{" in clause:
        start, end = clause.index("{"), clause.index("}") + 1
        new = f"<{keys.pop()}>" if keys else value(random, language)
        clause = clause[:start] + new + clause[end:]
    return clause


def _repeat(random: Random, language: str) -> Exercise:
    space = "" if language == "zh" else " "
    parts = [
        _clause(random, language, []) if random.random() < 0.4 else value(random, language)
        for _ in range(random.randint(1, 6))
    ]
    comma = random.choice((space, _SAID[language]["join"][0]))
    text = comma.join(parts)
    return f"{random.choice(_SAID[language]['repeat'])}\n{text}", text


def _table(random: Random, language: str, least: int, most: int) -> dict[str, str]:
    keys = random.sample(_KEYS[language], random.randint(least, most))
    if random.random() < 0.3:
        keys[0] = _invented(random, language)
    return {key: value(random, language) for key in keys}


def _listed(random: Random, language: str, table: dict[str, str]) -> str:
    rows = random.sample(sorted(table.items()), len(table))
    if random.random() < 0.7:
        return "\n".join(f"{key}: {one}" for key, one in rows)
    form = random.choice(_SAID[language]["is"])
    return _SAID[language]["join"][0].join(form.format(*row) for row in rows)


def _look_up(random: Random, language: str) -> Exercise:
    table = _table(random, language, 2, 8)
    asked = random.sample(sorted(table), random.choice((1, 1, 2, 3)) if len(table) > 2 else 1)
    question = random.choice(_SAID[language]["look up"])
    questions = " ".join(question.format(key) for key in asked)
    shown = _listed(random, language, table)
    both = [questions, shown] if random.random() < 0.5 else [shown, questions]
    return "\n".join(both), "\n".join(table[key] for key in asked)


def _fill(random: Random, language: str) -> Exercise:
    table = _table(random, language, 2, 6)
    keys = random.sample(sorted(table), len(table))
    comma, stop, space = _SAID[language]["join"]
    form, left = "", list(keys)
    while left:
        form += _clause(random, language, left) if random.random() < 0.7 else f"<{left.pop()}>"
        form += random.choice((comma, stop + space, stop + "\n"))
    answer = form
    for key, one in table.items():
        answer = answer.replace(f"<{key}>", one)
    shown = _listed(random, language, table)
    return f"{random.choice(_SAID[language]['fill'])}\n{form}\n{shown}", answer.strip()


def _tell(random: Random, language: str) -> Exercise:
    table = _table(random, language, 1, 6)
    form = random.choice(_SAID[language]["is"])
    shown = "\n".join(f"{key}: {one}" for key, one in table.items())
    comma, stop, _ = _SAID[language]["join"]
    told = comma.join(form.format(*row) for row in table.items()) + stop
    return f"{random.choice(_SAID[language]['tell'])}\n{shown}", told


_KINDS = (_repeat, _look_up, _fill, _tell)
_SHARES = (3, 2, 4, 1)


def exercise(random: Random) -> Exercise:
    """One exercise, in one of the languages."""
    language = random.choice(facts.LANGUAGES)
    return random.choices(_KINDS, _SHARES)[0](random, language)
