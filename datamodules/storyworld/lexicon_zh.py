"""Chinese words: the forms (measure words, place words) of every concept that the Chinese grammar uses."""

from datamodules.storyworld.concepts import SEXES

Forms = dict[str, str]

NAMES = (
    "米拉", "诺拉", "莉娜", "伊达", "弗里达", "格蕾塔", "蒂尔达", "婉达",
    "奥托", "埃米尔", "胡戈", "安东", "布鲁诺", "卡尔", "西奥", "奥斯卡",
)  # fmt: skip
ROLES = ("面包师", "园丁", "织工", "裁缝", "牧羊人", "陶匠", "画家", "老师", "钟表匠", "养蜂人")
# noun, "(being) at", "(going) to"
PLACES = (
    ("磨坊", "磨坊里", "磨坊"),
    ("石桥", "石桥上", "石桥上"),
    ("花园", "花园里", "花园"),
    ("塔楼", "塔楼里", "塔楼"),
    ("港口", "港口", "港口"),
    ("森林", "森林里", "森林"),
    ("集市", "集市上", "集市"),
    ("小湖", "小湖边", "小湖边"),
    ("谷仓", "谷仓里", "谷仓"),
    ("城堡", "城堡里", "城堡"),
    ("学校", "学校里", "学校"),
    ("山坡", "山坡上", "山坡上"),
    ("水井", "水井旁", "水井旁"),
    ("客栈", "客栈里", "客栈"),
)
THINGS = (
    ("盏", "灯笼"), ("把", "钥匙"), ("面", "鼓"), ("只", "风筝"), ("个", "杯子"), ("枚", "戒指"),
    ("个", "铃铛"), ("本", "书"), ("张", "地图"), ("顶", "帽子"), ("个", "篮子"), ("支", "笛子"),
    ("面", "镜子"), ("枚", "硬币"), ("条", "围巾"), ("个", "枕头"), ("根", "绳子"), ("根", "羽毛"),
)  # fmt: skip
ADJECTIVES = ("红色的", "蓝色的", "绿色的", "黄色的", "白色的", "黑色的", "旧", "小")
WEATHERS = ("有雾的", "晴朗的", "刮风的", "下雨的", "下雪的", "寒冷的")
TIMES = ("早晨", "下午", "傍晚")
WAYS = (
    "沿着小河",
    "穿过田野",
    "穿过高高的草丛",
    "经过老橡树",
    "穿过窄窄的小巷",
    "翻过石墙",
    "从房子后面",
    "穿过树篱",
)
MOODS = (
    "想着心事", "急急忙忙地", "大声唱着歌", "迷迷糊糊地",
    "被一只鹅追着", "数着云朵", "轻轻吹着口哨", "哈哈大笑着",
)  # fmt: skip
MANNERS = (
    "微笑着",
    "两眼放光地",
    "想了一会儿，",
    "眨了眨眼睛，",
    "非常高兴地",
    "满心欢喜地",
    "毫不犹豫地",
    "深深鞠了一躬，",
)
PASTIMES = (
    "唱歌给小鸟听", "等朋友", "打盹", "吃苹果", "讲笑话", "喂鸽子", "练习跳舞", "补渔网", "喝茶", "刻勺子",
)  # fmt: skip
ANIMALS = (
    "一只猫", "一条狗", "一只乌鸦", "一只羊", "一只青蛙",
    "一只母鸡", "一头驴", "一只松鼠", "一只刺猬", "一头猪",
)  # fmt: skip
ACTS = ("打了个哈欠", "打了个喷嚏", "跳着舞", "做着梦", "点了点头", "静静地听着", "咯咯地笑着", "等待着")
SPOTS = ("屋顶上", "草丛里", "大树下", "篱笆后面", "马车旁边", "树荫里", "水坑边", "墙头上")
TREATS = ("热汤", "新鲜面包", "苹果蛋糕", "蜂蜜饼干", "李子酱", "热巧克力", "烤栗子", "甜茶")


def tables() -> dict[str, list[Forms]]:
    """Return, for each domain, the forms of each of its ids."""
    people = [
        {"name": name, "ta": "她" if sex == "f" else "他"} for name, sex in zip(NAMES, SEXES, strict=True)
    ]
    return {
        "person": people,
        "someone": [{**person, "role": role} for person in people for role in ROLES],
        "place": [{"noun": noun, "at": at, "to": to} for noun, at, to in PLACES],
        "thing": [{"noun": noun, "that": f"那{measure}{noun}"} for measure, noun in THINGS],
        "item": [
            {"one": f"一{measure}{adjective}{noun}"} for measure, noun in THINGS for adjective in ADJECTIVES
        ],
        "when": [{"it": f"{weather}{time}"} for weather in WEATHERS for time in TIMES],
        "way": [{"it": way} for way in WAYS],
        "mood": [{"it": mood} for mood in MOODS],
        "manner": [{"it": manner} for manner in MANNERS],
        "pastime": [{"it": pastime} for pastime in PASTIMES],
        "animal": [{"it": animal} for animal in ANIMALS],
        "act": [{"it": act} for act in ACTS],
        "spot": [{"it": spot} for spot in SPOTS],
        "treat": [{"it": treat} for treat in TREATS],
    }
