"""What a letter must repeat without a fault: names, numbers, sums and days, in three languages.

Contract: each function draws from the `random.Random` it is given and from nothing else.
"""

from random import Random

LANGUAGES = ("en", "zh", "yo")


def words(text: str) -> list[str]:
    """The words of a text, in its order."""
    return text.split()


_FIRST = {
    "en": "Ada Amina Bayo Bimpe Chika Dele Ebun Emeka Femi Funke Gbenga Halima Ife Jide Kemi Kunle "
    "Lola Musa Ngozi Nneka Obi Ola Remi Sade Segun Seyi Tayo Tunde Uche Wale Yemi Zainab",
    "yo": "Adé Àdùkẹ́ Àjọkẹ́ Bánkẹ́ Bísí Dàpọ̀ Dúpẹ́ Ẹ̀bùn Fẹ́mi Fúnmi Gbénga Ìfẹ́ Ìyábọ̀ Jídé "
    "Kẹ́mi Kúnlé Lọlá Mojí Níyì Ọlá Rẹ̀mí Ṣadé Ṣẹ́gun Ṣeyí Táyọ̀ Túndé Wálé Yẹmí",
}
_LAST = {
    "en": "Adeyemi Afolabi Balogun Bello Danjuma Eze Falana Idowu Ibrahim Johnson Kalu Lawal "
    "Mohammed Nwosu Obi Ogunleye Okafor Okoro Oladipo Onuoha Sanusi Thomas Usman Williams",
    "yo": "Adéyẹmí Afọlábí Akíntọ́lá Awólọ́wọ̀ Bámidélé Fálànà Ìdòwú Ògúnlẹ́yẹ Oyèwọlé Ọládiípọ̀ "
    "Ọláníyan Ọ̀ṣúntókun Ṣóyínká Táíwò",
}
_ZH_LAST = "王李张刘陈杨黄赵周吴徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹"
_ZH_FIRST = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂英华玉红建文辉力佳欣雨晨思远海山春秋月"
_MONTHS = {
    "en": words(
        "January February March April May June July August September October November December"
    ),
    "yo": words("Ṣẹ́rẹ́ Èrèlé Ẹrẹ́nà Igbe Èbìbí Òkúdu Agẹmọ Ògún Ọ̀wẹ́wẹ̀ Ọ̀wàrà Bélú Ọ̀pẹ"),
}
PATTERNS = {
    "en": ("oniko", "alabere", "eleko", "osubamba", "olokun", "ibadandun", "sunbebe", "batani"),
    "zh": ("奥尼科", "阿拉贝雷", "埃莱科", "满月纹", "海神纹", "鼓楼纹", "串珠纹", "版画纹"),
    "yo": ("oníko", "alábẹ́rẹ́", "ẹlẹ́kọ", "òṣùbàm̀bá", "olókun", "ìbàdàndùn", "súnbẹbẹ", "bátànì"),
}
_CURRENCY = {"en": "{} naira", "zh": "{}奈拉", "yo": "náírà {}"}


def name(random: Random, language: str) -> str:
    """A customer of the workshop."""
    if language == "zh":
        given = random.sample(_ZH_FIRST, random.choice((1, 2, 2)))
        return random.choice(_ZH_LAST) + "".join(given)
    return f"{random.choice(words(_FIRST[language]))} {random.choice(words(_LAST[language]))}"


def pattern(random: Random, language: str) -> str:
    """A pattern of adire cloth."""
    return random.choice(PATTERNS[language])


def order(random: Random) -> str:
    """The number of an order: four or five digits."""
    return str(random.randrange(1_000, 100_000))


def pieces(random: Random) -> str:
    """How many pieces: 2 to 60."""
    return str(random.randrange(2, 61))


def price(random: Random, language: str) -> str:
    """A sum of money, 1,500 to 250,000 naira, by the half thousand."""
    amount = random.randrange(3, 501) * 500
    return _CURRENCY[language].format(amount if language == "zh" else f"{amount:,}")


def day(random: Random, language: str) -> str:
    """A day of the year."""
    month, number = random.randrange(12), random.randrange(1, 29)
    if language == "zh":
        return f"{month + 1}月{number}日"
    return f"{number} {_MONTHS[language][month]}"
