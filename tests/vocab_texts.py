"""Small texts, written for these tests, in two languages."""

ENGLISH = [
    f"The {noun} that {name} saw {number} times was {colour}; nobody else could see the {noun}, said the other {noun}."
    for noun in ("river", "mountain", "teacher", "garden", "window", "letter")
    for name in ("Anna", "Peter", "the merchant", "her brother")
    for number in (3, 17, 204)
    for colour in ("green", "unusually bright", "hidden")
]
CHINESE = [
    f"{who}在{where}{what}，{how}。"
    for who in ("先生", "学生", "老人", "孩子们", "朋友")
    for where in ("山中", "江边", "学校里", "城市的中心")
    for what in ("读书", "看月亮", "学习历史", "唱歌")
    for how in ("非常高兴", "不知道时间过去了", "说明天再来")
]
