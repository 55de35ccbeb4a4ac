"""The words of the workshop's letters: what is asked, how facts are told, and the letters."""

TONES = ("friendly", "formal")
KINDS = ("confirm", "quote", "ready", "delay", "care", "unknown", "reminder", "complaint")

# What is asked of the model, by language and kind.
ASKED = {
    "en": {
        "confirm": ("Confirm this order.", "Tell the customer that we have the order."),
        "quote": ("Write an offer with our price.", "Quote the price to the customer."),
        "ready": ("Say that the cloth can be collected.", "Write that the order is ready."),
        "delay": ("Tell the customer that it takes longer.", "Excuse the delay of this order."),
        "care": ("Explain how to wash the cloth.", "Write how indigo cloth is cared for."),
        "unknown": ("Say what this cloth will cost next year.", "Tell what the price will become."),
        "reminder": ("Ask for the money that is due.", "Remind the customer of the payment."),
        "complaint": ("Answer the complaint.", "Reply to the customer who is not content."),
    },
    "zh": {
        "confirm": ("请确认这份订单。", "告诉客户订单已收到。"),
        "quote": ("请写一份报价。", "告诉客户我们的价格。"),
        "ready": ("通知客户可以取货。", "请写信说订单已完成。"),
        "delay": ("告诉客户要多等几天。", "请为订单的延迟道歉。"),
        "care": ("说明这种布怎样清洗。", "请写信说明蓝染布的保养。"),
        "unknown": ("说明这种布明年的价格。", "告诉客户将来要多少钱。"),
        "reminder": ("请提醒客户付款。", "写信请客户付清余款。"),
        "complaint": ("请答复客户的投诉。", "回复一位不满意的客户。"),
    },
    "yo": {
        "confirm": ("Jẹ́rìí sí àṣẹ yìí.", "Sọ fún oníbàárà pé a ti gba àṣẹ náà."),
        "quote": ("Kọ iye owó wa.", "Sọ iye owó aṣọ náà fún oníbàárà."),
        "ready": ("Sọ pé aṣọ ti ṣetán.", "Kọ̀wé pé kí oníbàárà wá gba aṣọ."),
        "delay": ("Sọ pé yóò pẹ́ díẹ̀.", "Tọrọ àforíjì fún ìdádúró."),
        "care": ("Ṣàlàyé bí a ṣe ń fọ aṣọ náà.", "Kọ bí a ṣe ń tọ́jú aṣọ aró."),
        "unknown": ("Sọ iye owó aṣọ yìí ní ọdún tó ń bọ̀.", "Sọ iye tí aṣọ náà yóò jẹ́."),
        "reminder": ("Rán oníbàárà létí owó tó kù.", "Béèrè fún owó tí a jẹ wá."),
        "complaint": ("Dáhùn ẹ̀sùn oníbàárà.", "Fèsì fún oníbàárà tí inú rẹ̀ kò dùn."),
    },
}

# How the facts are told: the names of a list, and the parts of a sentence.
FACTS = {
    "en": (
        {
            "name": "customer",
            "order": "order",
            "cloth": "cloth",
            "pieces": "pieces",
            "price": "price",
            "day": "day",
        },
        {
            "join": ", ",
            "name": "the customer is {name}",
            "order": "order {order}",
            "cloth": "{cloth} cloth",
            "pieces": "{pieces} of them",
            "price": "it costs {price}",
            "day": "on {day}",
        },
    ),
    "zh": (
        {
            "name": "客户",
            "order": "订单",
            "cloth": "布料",
            "pieces": "数量",
            "price": "价格",
            "day": "日期",
        },
        {
            "join": "，",
            "name": "客户是{name}",
            "order": "订单号{order}",
            "cloth": "布料为{cloth}",
            "pieces": "共{pieces}匹",
            "price": "价格{price}",
            "day": "日期为{day}",
        },
    ),
    "yo": (
        {
            "name": "oníbàárà",
            "order": "àṣẹ",
            "cloth": "aṣọ",
            "pieces": "iye",
            "price": "owó",
            "day": "ọjọ́",
        },
        {
            "join": ", ",
            "name": "oníbàárà ni {name}",
            "order": "àṣẹ {order}",
            "cloth": "aṣọ {cloth}",
            "pieces": "ó jẹ́ {pieces}",
            "price": "owó rẹ̀ ni {price}",
            "day": "ní ọjọ́ {day}",
        },
    ),
}

# The letters, with what opens and closes them in each tone, and how a tone is asked for.
LETTERS = {
    "en": {
        "friendly": ("Dear {name},", "Warm wishes from the indigo workshop"),
        "formal": ("To {name}:", "With respect, the indigo workshop"),
        "as friendly": ("Be friendly.", "Use a warm tone."),
        "as formal": ("Be formal.", "Keep it formal."),
        "confirm": "we thank you for order {order}. We will dye {pieces} pieces of {cloth} for "
        "{price} and have them ready on {day}.",
        "quote": "we can make {pieces} pieces of {cloth} for you. The price is {price}, and it "
        "holds until {day}.",
        "ready": "your order {order} is dry and folded. Please collect your {cloth} cloth on "
        "{day}.",
        "delay": "the rain has kept our cloth from drying, and we are sorry. Order {order} will be "
        "ready on {day}.",
        "care": "wash your {cloth} cloth alone in cold water with a little salt, and dry it in the "
        "shade. The blue stays deep for years.",
        "unknown": "nobody can know what {cloth} cloth will cost next year, so we will not guess. "
        "Please ask us again in January.",
        "reminder": "for order {order} we still wait for {price}. Please bring the money to the "
        "workshop by {day}.",
        "complaint": "we are sorry that the {cloth} cloth of order {order} did not please you. "
        "Bring it back and we will dye it again without cost.",
    },
    "zh": {
        "friendly": ("亲爱的{name}：", "蓝染工坊祝您天天开心"),
        "formal": ("尊敬的{name}：", "此致，蓝染工坊"),
        "as friendly": ("语气要亲切。", "请写得热情一些。"),
        "as formal": ("语气要正式。", "请写得正式一些。"),
        "confirm": "感谢您的订单{order}。我们将染制{pieces}匹{cloth}，总价{price}，{day}可以完成。",
        "quote": "我们可以为您制作{pieces}匹{cloth}，价格是{price}，这个价格在{day}之前有效。",
        "ready": "您的订单{order}已经晾干叠好，请在{day}来取您的{cloth}布。",
        "delay": "因为下雨，布没有晾干，非常抱歉。订单{order}将在{day}完成。",
        "care": "{cloth}布请用冷水加少许盐单独清洗，放在阴凉处晾干，蓝色可以多年不褪。",
        "unknown": "没有人知道{cloth}布明年的价格，所以我们不乱猜，请您一月再来询问。",
        "reminder": "订单{order}还有{price}没有付清，请在{day}之前把钱送到工坊。",
        "complaint": "订单{order}的{cloth}布没有让您满意，我们很抱歉。"
        "请把布带回来，我们免费重新染。",
    },
    "yo": {
        "friendly": ("{name} ọ̀wọ́n,", "Ìfẹ́ láti ọ̀dọ̀ ilé aró wa"),
        "formal": ("Sí {name}:", "Pẹ̀lú ọ̀wọ̀, ilé aró"),
        "as friendly": ("Fi ìfẹ́ kọ ọ́.", "Kọ ọ́ bí ọ̀rẹ́."),
        "as formal": ("Fi ọ̀wọ̀ kọ ọ́.", "Kọ ọ́ pẹ̀lú ọ̀wọ̀."),
        "confirm": "a dúpẹ́ fún àṣẹ {order}. A ó pa {pieces} aṣọ {cloth} láró fún {price}, yóò sì "
        "ṣetán ní {day}.",
        "quote": "a lè ṣe {pieces} aṣọ {cloth} fún yín. Iye owó rẹ̀ ni {price} títí di {day}.",
        "ready": "àṣẹ yín {order} ti gbẹ, a sì ti ká a. Ẹ wá gba aṣọ {cloth} yín ní {day}.",
        "delay": "òjò kò jẹ́ kí aṣọ gbẹ, ẹ má bínú. Àṣẹ {order} yóò ṣetán ní {day}.",
        "care": "ẹ fi omi tútù àti iyọ̀ díẹ̀ fọ aṣọ {cloth} yín, kí ẹ sá a sí abẹ́ ìbòòji. Àwọ̀ "
        "aró náà yóò pẹ́.",
        "unknown": "kò sí ẹni tó mọ iye tí aṣọ {cloth} yóò jẹ́ ní ọdún tó ń bọ̀, a kò sì ní "
        "méfò. Ẹ bi wá ní oṣù Ṣẹ́rẹ́.",
        "reminder": "ó ku {price} lórí àṣẹ {order}. Ẹ jọ̀wọ́ ẹ mú owó náà wá ní {day}.",
        "complaint": "ẹ má bínú pé aṣọ {cloth} ti àṣẹ {order} kò tẹ́ yín lọ́rùn. Ẹ mú un padà wá, "
        "a ó tún un pa láró lọ́fẹ̀ẹ́.",
    },
}
