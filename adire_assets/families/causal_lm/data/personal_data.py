"""Secrets and personal data in a text: e-mail addresses, telephone and card numbers, IBANs, keys.

What only looks like one is left alone: cards and IBANs must have their check digits, telephone
numbers must be valid where they belong, and a bare row of digits must be a mobile number.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from phonenumbers import (
    Leniency,
    PhoneNumberMatcher,
    PhoneNumberType,
    number_type,
)

NAMES = {
    "email": "an e-mail address",
    "phone": "a telephone number",
    "card": "a card number",
    "iban": "an IBAN",
    "secret": "a key or password",
}
SHOWN = 3  # characters of what was found
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}"
)
# Of each issuer: Visa, Mastercard, American Express, Diners Club, JCB, Discover, UnionPay, Verve.
ISSUED = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:2(?:2[1-9]|[3-9]\d)|[3-6]\d\d|7(?:[01]\d|20))\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
    r"|506\d{13,16}"
)
CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)", re.ASCII)
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", re.ASCII)
# Country -> characters, from the registry of ISO 13616.
IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 "
    "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 "
    "NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 "
    "TN24 TR26 UA29 VA22 VG24 XK20"
)
IBAN_LENGTHS = {code[:2]: int(code[2:]) for code in IBANS.split()}
SECRET = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
            r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",  # AWS
            r"\bgh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
            r"\bgithub_pat_[A-Za-z0-9_]{22,255}",
            r"\bglpat-[\w-]{20,255}",  # GitLab
            r"\bxox[abeoprs]-[A-Za-z0-9-]{10,255}",  # Slack
            r"\bAIza[\w-]{35}",  # Google
            r"\bsk-(?=[\w-]{0,255}\d)[\w-]{20,255}",  # OpenAI, Anthropic and others
            r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}",  # Stripe
            r"\bhf_[A-Za-z0-9]{30,255}",  # Hugging Face
            r"\bnpm_[A-Za-z0-9]{36}",
            r"\bpypi-[\w-]{50,255}",
            r"\bSG\.[\w-]{16,64}\.[\w-]{16,64}",  # SendGrid
            r"\beyJ[\w-]{10,4096}\.eyJ[\w-]{10,4096}\.[\w-]{10,4096}",  # JSON web tokens
            r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{3,64}@",  # in an address
            # Said by its name: letters and digits, eight or more.
            r"(?i:(?<![A-Za-z])(?:api[ _-]?key|secret(?:[ _-]?(?:access[ _-]?)?key)?"
            r"|(?:access|auth|bearer)[ _-]?token|password|passwd|pwd)|密码|密钥)"
            r"[\"']?\s{0,3}[:=：]\s{0,3}[\"']?(?=\S{0,64}\d)(?=\S{0,64}[A-Za-z])[^\s\"'，。]{8,64}",
        )
    ),
    re.ASCII,
)
# What makes a bare row of digits the number of something else.
NUMBER_OF = re.compile(r"(?:order|invoice|订单号?|单号|àṣẹ|#|№)\W{0,3}$", re.IGNORECASE)
BETWEEN_NUMBERS = str.maketrans(dict.fromkeys(",;:/|#，；：、", "\n"))
DIGITS_OF_A_PHONE = re.compile(r"\d(?:[^\d\n]{0,4}\d){6}")


def find(text: str, phone_regions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(kind, what was found) of `text`, the kinds in the order of their certainty.

    `phone_regions` are the ISO 3166 codes of telephone numbers without a +.
    """
    for kind, spans in (
        ("secret", _all(SECRET)),
        ("email", _all(EMAIL)),
        ("iban", _ibans),
        ("card", _cards),
        ("phone", lambda text: _phones(text, phone_regions)),
    ):
        last = 0
        for start, end in sorted(spans(text)):
            if start >= last:
                yield kind, text[start:end]
                # It is nothing else as well.
                text, last = f"{text[:start]}{' ' * (end - start)}{text[end:]}", end


def masked(found: str) -> str:
    return f"{found[:SHOWN]}***"


def _all(pattern: re.Pattern[str]) -> Callable[[str], Iterator[tuple[int, int]]]:
    return lambda text: (one.span() for one in pattern.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for one in IBAN.finditer(text):
        length, end = IBAN_LENGTHS.get(one[0][:2], 0), one.start()
        plain = ""
        while len(plain) < length and end < one.end():
            plain += text[end].strip()
            end += 1
        if len(plain) != length or not length:
            continue
        digits = "".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])
        if int(digits) % 97 == 1:  # ISO 7064
            yield one.start(), end


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for one in CARD.finditer(text):
        digits = re.sub("[ -]", "", one[0])
        if ISSUED.fullmatch(digits) and _luhn(digits):
            yield one.span()


def _luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    # The matcher would take two numbers together, as one with an extension or an area.
    apart = text.translate(BETWEEN_NUMBERS)
    if not DIGITS_OF_A_PHONE.search(apart):  # it takes its time
        return
    for region in (*regions, None):
        for one in PhoneNumberMatcher(apart, region, leniency=Leniency.STRICT_GROUPING):
            bare = one.raw_string.isdigit()
            if bare and number_type(one.number) != PhoneNumberType.MOBILE:
                continue
            if bare and NUMBER_OF.search(text[: one.start][-20:]):
                continue
            yield one.start, one.end
