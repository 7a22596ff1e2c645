"""The small task of the demo: facts, the questions that ask for them, and the rule that keeps some questions unseen.

``python -m hanlin.demo.facts`` writes ``data/facts.txt`` (the facts as sentences, for pre-training) and
``data/instructions.json`` (Stanford Alpaca records, for tuning). Both are shipped; a test compares them with this file.

Which question of which fact is trained: a relation has Q ``questions``, and fact number i is trained with all of them
except number i mod Q. So each wording is trained, each fact is trained, and each fact has one question whose wording
the model met only with other facts. The wordings in ``unseen`` are not trained with any fact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts of one kind. ``{a}``, ``{b}`` ... in the wordings are the fields of a fact in order."""

    name: str
    facts: tuple[tuple[str, ...], ...]
    answer: str
    questions: tuple[str, ...]
    unseen: tuple[str, ...]
    statements: tuple[str, ...]
    key: int = 1
    """Number of the field that a right answer has to contain."""


def rows(text: str) -> tuple[tuple[str, ...], ...]:
    """Facts written as ``a b c`` separated by line breaks or semicolons."""
    return tuple(tuple(fact.split()) for line in text.splitlines() for fact in line.split(";") if fact.strip())


def in_order(names: str) -> tuple[tuple[str, ...], ...]:
    """Each name with the one after it."""
    listed = names.split()
    return tuple(zip(listed, listed[1:], strict=False))


def both_ways(text: str) -> tuple[tuple[str, ...], ...]:
    """Pairs, each one also turned round."""
    return tuple(pair for a, b in rows(text) for pair in ((a, b), (b, a)))


DIGITS = "零 一 二 三 四 五 六 七 八 九 十".split()
SUMS = tuple((DIGITS[i], DIGITS[j], DIGITS[i + j]) for i in range(1, 10) for j in range(1, 10) if i + j <= 10)

RELATIONS = (
    Relation(
        name="capital",
        facts=rows(
            "中国 北京;日本 东京;韩国 首尔;蒙古 乌兰巴托;泰国 曼谷;印度 新德里;法国 巴黎;英国 伦敦;德国 柏林;俄罗斯 莫斯科\n"
            "意大利 罗马;西班牙 马德里;葡萄牙 里斯本;希腊 雅典;埃及 开罗;美国 华盛顿;加拿大 渥太华;古巴 哈瓦那;秘鲁 利马;挪威 奥斯陆"
        ),
        answer="{a}的首都是{b}。",
        questions=(
            "{a}的首都是哪里？",
            "{a}的首都是哪个城市？",
            "哪个城市是{a}的首都？",
            "请问{a}的首都在哪里？",
            "你知道{a}的首都是哪里吗？",
        ),
        unseen=(
            "请告诉我，{a}的首都是哪里？",
            "请问{a}的首都是哪个城市？",
        ),
        statements=("{a}的首都是{b}。", "{b}是{a}的首都。"),
    ),
    Relation(
        name="opposite",
        facts=both_ways(
            "大 小;高 低;长 短;多 少;快 慢;冷 热;黑 白;早 晚;新 旧;轻 重;远 近;前 后;左 右;上 下;开 关;来 去;胖 瘦;深 浅"
        ),
        answer="“{a}”的反义词是“{b}”。",
        questions=(
            "“{a}”的反义词是什么？",
            "请说出“{a}”的反义词。",
            "和“{a}”相反的字是什么？",
            "请问“{a}”的反义词是什么？",
            "请告诉我，“{a}”的反义词是什么？",
        ),
        unseen=(
            "你知道“{a}”的反义词是什么吗？",
            "“{a}”的反义词是哪个字？",
        ),
        statements=("“{a}”的反义词是“{b}”。",),
    ),
    Relation(
        name="colour",
        facts=rows(
            "天空 蓝色;大海 蓝色;小草 绿色;树叶 绿色;雪 白色;牛奶 白色;煤 黑色;乌鸦 黑色;香蕉 黄色;小鸡 黄色;血 红色;国旗 红色\n"
            "胡萝卜 橙色;葡萄 紫色;大象 灰色;黄金 金色"
        ),
        answer="{a}是{b}的。",
        questions=(
            "{a}是什么颜色的？",
            "{a}的颜色是什么？",
            "请问{a}是什么颜色的？",
            "{a}是什么颜色？",
            "你知道{a}是什么颜色的吗？",
        ),
        unseen=(
            "请告诉我，{a}是什么颜色的？",
            "请问{a}的颜色是什么？",
        ),
        statements=("{a}是{b}的。", "{a}的颜色是{b}。"),
    ),
    Relation(
        name="sum",
        facts=SUMS,
        answer="{a}加{b}等于{c}。",
        questions=(
            "{a}加{b}等于几？",
            "{a}加{b}是多少？",
            "请计算{a}加{b}。",
            "{a}加{b}等于多少？",
            "请告诉我，{a}加{b}等于几？",
        ),
        unseen=(
            "请问{a}加{b}等于几？",
            "你知道{a}加{b}是多少吗？",
        ),
        statements=("{a}加{b}等于{c}。",),
        key=2,
    ),
    Relation(
        name="next",
        facts=in_order("一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十")
        + in_order("星期一 星期二 星期三 星期四 星期五 星期六 星期天")
        + in_order("一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月")
        + in_order("春天 夏天 秋天 冬天"),
        answer="{a}的后面是{b}。",
        questions=(
            "{a}的后面是什么？",
            "{a}后面是什么？",
            "请问{a}的后面是什么？",
            "什么在{a}的后面？",
            "你知道{a}的后面是什么吗？",
        ),
        unseen=(
            "请告诉我，{a}的后面是什么？",
            "请问{a}后面是什么？",
        ),
        statements=("{a}的后面是{b}。",),
    ),
    Relation(
        name="count",
        facts=rows(
            "一年 个月 十二;一年 个季节 四;一周 天 七;一天 个小时 二十四;一个小时 分钟 六十;一分钟 秒 六十;一只手 个手指 五\n"
            "一只猫 条腿 四;一只鸡 条腿 两;一只蜘蛛 条腿 八;一只蚂蚁 条腿 六;一个人 只眼睛 两;一只兔子 只耳朵 两\n"
            "一辆自行车 个轮子 两;一辆汽车 个轮子 四;一个三角形 条边 三;一个正方形 条边 四;一首绝句 句 四;一首律诗 句 八"
        ),
        answer="{a}有{c}{b}。",
        questions=(
            "{a}有多少{b}？",
            "请问{a}有多少{b}？",
            "{a}一共有多少{b}？",
            "{a}有几{b}？",
            "请告诉我，{a}有多少{b}？",
        ),
        unseen=(
            "你知道{a}有多少{b}吗？",
            "请问{a}一共有多少{b}？",
        ),
        statements=("{a}有{c}{b}。",),
        key=2,
    ),
    Relation(
        name="food",
        facts=rows("熊猫 竹子;兔子 胡萝卜;猫 鱼;狗 骨头;牛 草;马 草;猴子 桃子;松鼠 松果;老鼠 大米;蚕 桑叶;鸡 虫子;老虎 肉"),
        answer="{a}爱吃{b}。",
        questions=(
            "{a}爱吃什么？",
            "{a}喜欢吃什么？",
            "请问{a}爱吃什么？",
            "什么是{a}爱吃的？",
            "你知道{a}爱吃什么吗？",
        ),
        unseen=(
            "请告诉我，{a}爱吃什么？",
            "请问{a}喜欢吃什么？",
        ),
        statements=("{a}爱吃{b}。", "{b}是{a}爱吃的。"),
    ),
    Relation(
        name="english",
        facts=rows(
            "水 water;书 book;猫 cat;狗 dog;马 horse;鸟 bird;鱼 fish;树 tree;花 flower;山 mountain;河 river;海 sea;太阳 sun\n"
            "月亮 moon;星星 star;雨 rain;雪 snow;风 wind;房子 house;门 door;面包 bread;苹果 apple;老师 teacher;医生 doctor"
        ),
        answer="{a}的英语是 {b}。",
        questions=(
            "{a}的英语是什么？",
            "{a}用英语怎么说？",
            "请把“{a}”翻译成英语。",
            "“{a}”用英语怎么说？",
            "请告诉我，{a}用英语怎么说？",
        ),
        unseen=(
            "请问{a}用英语怎么说？",
            "你知道{a}的英语是什么吗？",
        ),
        statements=("{a}的英语是 {b}。",),
    ),
    Relation(
        name="author",
        facts=rows(
            "静夜思 李白;春晓 孟浩然;登鹳雀楼 王之涣;相思 王维;江雪 柳宗元;悯农 李绅;寻隐者不遇 贾岛;登乐游原 李商隐;咏鹅 骆宾王\n"
            "游子吟 孟郊;回乡偶书 贺知章;出塞 王昌龄;望庐山瀑布 李白;早发白帝城 李白;赠汪伦 李白;春夜喜雨 杜甫;望岳 杜甫\n"
            "枫桥夜泊 张继;滁州西涧 韦应物;赋得古原草送别 白居易;乌衣巷 刘禹锡;山行 杜牧;清明 杜牧;别董大 高适;元日 王安石\n"
            "题西林壁 苏轼;小池 杨万里;示儿 陆游;夏日绝句 李清照"
        ),
        answer="《{a}》的作者是{b}。",
        questions=(
            "《{a}》的作者是谁？",
            "谁写了《{a}》？",
            "《{a}》是谁写的？",
            "请问《{a}》的作者是谁？",
            "你知道《{a}》是谁写的吗？",
        ),
        unseen=(
            "请告诉我，《{a}》的作者是谁？",
            "请问《{a}》是谁写的？",
        ),
        statements=("《{a}》的作者是{b}。", "{b}写了《{a}》。"),
    ),
    Relation(
        name="verse",
        facts=rows(
            "床前明月光 疑是地上霜;举头望明月 低头思故乡;春眠不觉晓 处处闻啼鸟;夜来风雨声 花落知多少;白日依山尽 黄河入海流\n"
            "欲穷千里目 更上一层楼;红豆生南国 春来发几枝;愿君多采撷 此物最相思;千山鸟飞绝 万径人踪灭;锄禾日当午 汗滴禾下土\n"
            "谁知盘中餐 粒粒皆辛苦;松下问童子 言师采药去;夕阳无限好 只是近黄昏;慈母手中线 游子身上衣;谁言寸草心 报得三春晖\n"
            "独在异乡为异客 每逢佳节倍思亲;日照香炉生紫烟 遥看瀑布挂前川;飞流直下三千尺 疑是银河落九天\n"
            "两岸猿声啼不住 轻舟已过万重山;桃花潭水深千尺 不及汪伦送我情;两个黄鹂鸣翠柳 一行白鹭上青天\n"
            "好雨知时节 当春乃发生;会当凌绝顶 一览众山小;月落乌啼霜满天 江枫渔火对愁眠;野火烧不尽 春风吹又生\n"
            "停车坐爱枫林晚 霜叶红于二月花;清明时节雨纷纷 路上行人欲断魂;莫愁前路无知己 天下谁人不识君\n"
            "不识庐山真面目 只缘身在此山中;小荷才露尖尖角 早有蜻蜓立上头"
        ),
        answer="{b}。",
        questions=(
            "“{a}”的下一句是什么？",
            "请接下一句：{a}。",
            "{a}，下一句是什么？",
            "请背出“{a}”的下一句。",
            "请告诉我，“{a}”的下一句是什么？",
        ),
        unseen=(
            "请问“{a}”的下一句是什么？",
            "你知道“{a}”的下一句是什么吗？",
        ),
        statements=("“{a}”的下一句是“{b}”。",),
    ),
)

TALK = (
    ("你好！", "你好！我是翰林，很高兴见到你。"),
    ("你好吗？", "我很好，谢谢你！"),
    ("你是谁？", "我是翰林，一个很小的语言模型。"),
    ("你叫什么名字？", "我叫翰林。"),
    ("你会做什么？", "我会背古诗，会说反义词，也会做很小的加法。"),
    ("你会说中文吗？", "会，我刚刚学会了一点中文。"),
    ("你是怎么学会中文的？", "我先学了汉字，再读了古诗和故事，最后学习回答问题。"),
    ("谢谢你！", "不客气！"),
    ("再见！", "再见！"),
    ("晚安！", "晚安！"),
    ("早上好！", "早上好！"),
    ("什么是翰林？", "翰林是古代有学问的人。"),
)
"""Short exchanges that are trained as they stand, each four times like a fact."""


def fill(wording: str, fact: tuple[str, ...]) -> str:
    """``wording`` with its ``{a}``, ``{b}``, ``{c}`` replaced by the fields of ``fact``."""
    return wording.format(**dict(zip("abc", fact, strict=False)))


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its answer; ``seen`` says how far the model met it in training."""

    relation: str
    text: str
    answer: str
    key: str
    """What a right answer contains."""
    seen: str
    """``trained``: as it stands; ``regrouped``: the wording only with other facts; ``unseen``: the wording never."""


def questions() -> Iterator[Question]:
    """Each question that can be asked of each fact, trained or not."""
    for relation in RELATIONS:
        for i, fact in enumerate(relation.facts):
            answer, key = fill(relation.answer, fact), fact[relation.key]
            left_out = i % len(relation.questions)
            for number, wording in enumerate(relation.questions):
                seen = "regrouped" if number == left_out else "trained"
                yield Question(relation.name, fill(wording, fact), answer, key, seen)
            for wording in relation.unseen:
                yield Question(relation.name, fill(wording, fact), answer, key, "unseen")


def statements() -> str:
    """The facts as sentences, a relation and a form to a line of about six facts."""
    lines = []
    for relation in RELATIONS:
        for statement in relation.statements:
            for start in range(0, len(relation.facts), 6):
                lines.append("".join(fill(statement, fact) for fact in relation.facts[start : start + 6]))
    return "\n".join(lines) + "\n"


def records() -> list[dict[str, str]]:
    """Stanford Alpaca records of all trained questions and of the talk."""
    asked = [(q.text, q.answer) for q in questions() if q.seen == "trained"]
    return [{"instruction": q, "input": "", "output": a} for q, a in [*asked, *TALK, *TALK, *TALK]]


def write(directory: Path) -> None:
    """Write ``facts.txt`` and ``instructions.json`` into ``directory``."""
    (directory / "facts.txt").write_text(statements(), encoding="utf-8")
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records())
    (directory / "instructions.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    write(DATA)
