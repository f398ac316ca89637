"""Pre-tokenizers by the name GGUF files give them (`tokenizer.ggml.pre`): how a text is cut before merges apply.

A file holds no more than this name. What it stands for was taken from the published tokenizer.json of the models that
have it, which also normalise: llama.cpp does not, and cuts a few scripts in a simpler way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Part = dict[str, Any]


def _split(pattern: str) -> Part:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(letters: str, digits: str, other: str = r"[^\s\p{L}\p{N}]") -> Part:
    """Words with a character before them, digits, other characters, and white space by lines."""
    return _split(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}| ?{other}+[\r\n]*{_END}")


_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(digits: str, ending: str, upper: str = _UPPER, lower: str = _LOWER, behind: str = r"\r\n/") -> str:
    """Words that end where the case changes."""
    first = r"[^\r\n\p{L}\p{N}]?"
    words = f"{first}{upper}*{lower}+{ending}|{first}{upper}+{lower}*{ending}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{behind}]*{_END}"


def _not_chinese(letters: str) -> str:
    """The same letters without Chinese characters."""
    return rf"{letters[:-1]}&&[^\p{{Han}}]]"


_QWEN = _words(r"\p{L}", r"\p{N}")
_LLAMA = _words(r"\p{L}", r"\p{N}{1,3}")
_GPT4O = _split(_cased(r"\p{N}{1,3}", f"{_CONTRACTIONS}?"))
_KIMI = _split(
    r"[\p{Han}]+|"
    + _cased(r"\p{N}{1,3}", f"{_CONTRACTIONS}?", _not_chinese(_UPPER), _not_chinese(_LOWER), behind=r"\r\n")
)
_DIGITS: Part = {"type": "Digits", "individual_digits": True}
_LATIN = (
    "[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ"
    "ℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]"
)  # fmt: skip
_CJK = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_LLM = (
    _split("[\r\n]"), _split(rf"\s?{_LATIN}+"), _split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), _split(r"\s+$"),
    _split(_CJK), _DIGITS,
)  # fmt: skip
_DEEPSEEK_CODER = (_split("[\r\n]"), _split(r"\s?\p{L}+"), _split(r"\s?\p{P}+"), _split(_CJK), _DIGITS)
_DEEPSEEK_V3 = (
    _split(r"\p{N}{1,3}"), _split("[一-龥぀-ゟ゠-ヿ]+"),
    _split(
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        + _END
    ),
)  # fmt: skip


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for.

    Attributes:
        parts: pre-tokenizers before the one that maps bytes to letters.
        gpt2: whether that one cuts as GPT-2 does.
        nfc: whether texts are normalised to Unicode's form C.
        whole: whether a piece that is a token itself is taken before merges apply.
        bos: whether texts begin with the bos token in files that do not say.
    """

    parts: tuple[Part, ...] = ()
    gpt2: bool = False
    nfc: bool = False
    whole: bool = False
    bos: bool = False

    @property
    def normalizer(self) -> Part | None:
        """Of tokenizer.json."""
        return {"type": "NFC"} if self.nfc else None

    @property
    def pre_tokenizer(self) -> Part:
        """Of tokenizer.json."""
        letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": self.gpt2}
        return {"type": "Sequence", "pretokenizers": [*self.parts, letters]} if self.parts else letters


_LLAMA3 = PreTokenizer((_LLAMA,), whole=True, bos=True)
_BY_DIGITS = PreTokenizer((_DIGITS,), gpt2=True)
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "chatglm-bpe": PreTokenizer((_LLAMA,)),
    "dbrx": PreTokenizer((_LLAMA,)),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-r1-qwen": PreTokenizer((_QWEN,), nfc=True),
    "deepseek-v3": PreTokenizer(_DEEPSEEK_V3),
    "glm4": PreTokenizer((_LLAMA,), whole=True),
    "gpt-2": PreTokenizer(gpt2=True),
    "gpt-4o": PreTokenizer((_GPT4O,)),
    "hunyuan": PreTokenizer((_QWEN,), nfc=True),
    "kimi-k2": PreTokenizer((_KIMI,)),
    "lfm2": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "minimax-m2": PreTokenizer((_GPT4O,)),
    "olmo": PreTokenizer(gpt2=True, nfc=True),
    "pixtral": _LLAMA3,
    "qwen2": PreTokenizer((_QWEN,), nfc=True),
    "qwen35": PreTokenizer((_words(r"[\p{L}\p{M}]", r"\p{N}", r"[^\s\p{L}\p{M}\p{N}]"),), nfc=True),
    "refact": _BY_DIGITS,
    "smollm": _BY_DIGITS,
    "starcoder": _BY_DIGITS,
    "tekken": PreTokenizer((_split(_cased(r"\p{N}", "")),), whole=True, bos=True),
}
