"""The most frequent function words of three languages, and their removal from texts."""

import re
from collections.abc import Mapping
from typing import Literal

StopLanguage = Literal["en", "de", "zh"]

_EN = """a about above after again all am an and any are as at be because been before being below between
    both but by can could did do does doing down during each few for from further had has have
    having he her here hers herself him himself his how i if in into is it its itself just me more
    most my myself no nor not now of off on once only or other our ours ourselves out over own same
    she should so some such than that the their theirs them themselves then there these they this
    those through to too under until up very was we were what when where which while who whom why
    will with would you your yours yourself yourselves"""
_DE = """aber alle allem allen aller alles als also am an ander andere anderem anderen anderer auch auf
    aus bei bin bis bist da damit dann das dass dein deine dem den denn der des dich die dies diese
    diesem diesen dieser dieses dir doch dort du durch ein eine einem einen einer eines er es etwas
    euch euer für gegen gewesen hab habe haben hat hatte hatten hier hin hinter ich ihm ihn ihnen
    ihr ihre ihrem ihren ihrer im in indem ins ist jede jedem jeden jeder jedes jene jenem jenen
    jener kann kein keine keinem keinen keiner können man manche mein meine mich mir mit muss musste
    nach nicht nichts noch nun nur ob oder ohne sehr sein seine seinem seinen seiner selbst sich sie
    sind so solche soll sollte sondern sonst über um und uns unser unter viel vom von vor war waren
    was weg weil weiter welche wenn werde werden wie wieder will wir wird wo wollen wollte zu zum
    zur zwar zwischen"""
_ZH = """的 了 着 过 吗 呢 吧 啊 呀 嘛 哦 地 得 之 也 都 就 才 还 又 很 而 且 但 与
    及 和 或 把 被 让 给 对 从 在 是 而且 但是 因为 所以 如果 虽然 然后 于是 以及
    或者 并且 这个 那个 这些 那些 我们 你们 他们 她们 它们"""
# Chinese is not segmented into words; these common words keep a character that is otherwise a stop word.
_ZH_KEPT = """目的 的确 的士 了解 了不起 为了 着急 着火 着陆 沿着 过去 过程 过年 通过 经过 不过
    超过 难过 地方 地球 土地 地点 地区 得到 获得 值得 之前 之后 之间 首都 都市 成就 就业
    人才 天才 刚才 还是 还有 和平 和谐 暖和 把握 被子 让步 给予 对面 对手 反对 从前 从来
    现在 存在 正在 实在 在意 但愿 与其 及时 是否 就是 总是 也许 而已"""

_STOP: Mapping[StopLanguage, frozenset[str]] = {
    "en": frozenset(_EN.split()),
    "de": frozenset(_DE.split()),
    "zh": frozenset(_ZH.split()),
}
_WORD = re.compile(r"[\w'\u2019\u02bc]+")
_ZH_WORD = re.compile(
    "|".join(sorted([*_ZH_KEPT.split(), *_ZH.split()], key=lambda word: (-len(word), word)))
)


def without_stop_words(text: str, language: StopLanguage) -> tuple[str, int]:
    """Remove the stop words of a language, in any case; return the rest and the number of removed words.

    The spaces around them are kept.
    """
    stop = _STOP[language]
    n_found = 0

    def kept(match: re.Match[str]) -> str:
        nonlocal n_found
        if match.group().lower() not in stop:
            return match.group()
        n_found += 1
        return ""

    rest = (_ZH_WORD if language == "zh" else _WORD).sub(kept, text)
    return rest, n_found
