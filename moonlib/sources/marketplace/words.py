"""The marketplace's vocabulary: what titles, attributes and queries say, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Word:
    """One value of an attribute."""

    en: str
    zh: str


@dataclass(frozen=True)
class Colour(Word):
    """A named colour; every product of that colour is painted within a small jitter of `rgb`."""

    rgb: RGB


@dataclass(frozen=True)
class Style(Word):
    """A style word and what of it can be seen: the colour of the accents and how much the surface shines."""

    accent: RGB
    gloss: float


COLOURS = (
    Colour("black", "黑色", (0.12, 0.12, 0.13)),
    Colour("white", "白色", (0.93, 0.93, 0.91)),
    Colour("grey", "灰色", (0.55, 0.56, 0.58)),
    Colour("beige", "米色", (0.87, 0.79, 0.65)),
    Colour("brown", "棕色", (0.44, 0.28, 0.17)),
    Colour("red", "红色", (0.78, 0.13, 0.15)),
    Colour("orange", "橙色", (0.93, 0.51, 0.14)),
    Colour("yellow", "黄色", (0.95, 0.82, 0.24)),
    Colour("green", "绿色", (0.20, 0.52, 0.27)),
    Colour("teal", "青色", (0.15, 0.56, 0.58)),
    Colour("blue", "蓝色", (0.17, 0.36, 0.75)),
    Colour("navy", "藏青", (0.10, 0.15, 0.36)),
    Colour("purple", "紫色", (0.47, 0.25, 0.60)),
    Colour("pink", "粉色", (0.93, 0.62, 0.70)),
)

STYLES = (
    Style("minimalist", "简约", (0.85, 0.85, 0.85), 0.25),
    Style("vintage", "复古", (0.55, 0.38, 0.20), 0.10),
    Style("sporty", "运动风", (0.90, 0.30, 0.10), 0.35),
    Style("cute", "可爱", (0.98, 0.72, 0.80), 0.55),
    Style("luxury", "轻奢", (0.83, 0.69, 0.22), 0.95),
    Style("bohemian", "波西米亚", (0.16, 0.55, 0.50), 0.05),
    Style("industrial", "工业风", (0.25, 0.27, 0.30), 0.75),
    Style("street", "街头", (0.55, 0.20, 0.85), 0.45),
)

# In the order of `Look.pattern`.
PATTERNS = (
    Word("plain", "纯色"),
    Word("striped", "条纹"),
    Word("polka dot", "波点"),
    Word("checked", "格子"),
    Word("zigzag", "锯齿纹"),
    Word("diamond", "菱形"),
    Word("wavy", "波浪纹"),
)

_FIRST = tuple(map(Word, ("Lu", "Mo", "Ka", "Ve", "So", "Ni", "Ba", "Ye"), "露墨卡维索妮芭叶"))
_SECOND = tuple(map(Word, ("ran", "della", "vik", "mei", "tor", "zen"), ("然", "黛拉", "维克", "美", "拓", "臻")))
BRANDS = tuple(Word(a.en + b.en, a.zh + b.zh) for a in _FIRST for b in _SECOND)

COMPOSITIONS = (
    Word("100% cotton", "纯棉"),
    Word("linen", "亚麻"),
    Word("wool", "羊毛"),
    Word("polyester", "涤纶"),
    Word("genuine leather", "真皮"),
    Word("vegan leather", "人造革"),
    Word("nylon", "尼龙"),
    Word("canvas", "帆布"),
    Word("stainless steel", "不锈钢"),
    Word("aluminium", "铝合金"),
    Word("ceramic", "陶瓷"),
    Word("glass", "玻璃"),
    Word("bamboo", "竹制"),
    Word("solid oak", "橡木"),
    Word("silicone", "硅胶"),
    Word("ABS plastic", "ABS塑料"),
)

FUNCTIONS = (
    Word("waterproof", "防水"),
    Word("foldable", "可折叠"),
    Word("breathable", "透气"),
    Word("non-slip", "防滑"),
    Word("quick-dry", "速干"),
    Word("thermal", "保暖"),
    Word("lightweight", "轻便"),
    Word("shockproof", "防摔"),
    Word("dimmable", "可调光"),
    Word("rechargeable", "可充电"),
    Word("dishwasher safe", "可机洗"),
    Word("long-lasting", "持久"),
)

SIZES = (Word("small", "小号"), Word("medium", "中号"), Word("large", "大号"))

# How many a listing sells.
UNITS = (
    Word("set of 2", "两件套"),
    Word("pack of 3", "3件装"),
    Word("1 piece", "单件"),
    Word("twin pack", "双份装"),
)

# What each department's products are made of and good for: indices into COMPOSITIONS and FUNCTIONS.
MADE_OF: dict[str, tuple[int, ...]] = {
    "Fashion": (0, 1, 2, 3, 6),
    "Shoes": (4, 5, 6, 7, 14),
    "Bags": (3, 4, 5, 6, 7),
    "Accessories": (2, 3, 4, 8, 15),
    "Kitchen": (8, 9, 10, 11, 12),
    "Lighting": (8, 9, 11, 12, 15),
    "Furniture": (4, 8, 12, 13, 15),
    "Home decor": (0, 1, 10, 11, 13),
    "Electronics": (8, 9, 12, 14, 15),
    "Beauty": (9, 11, 12, 14, 15),
    "Toys": (0, 3, 13, 14, 15),
}
GOOD_FOR: dict[str, tuple[int, ...]] = {
    "Fashion": (2, 4, 5, 6),
    "Shoes": (0, 2, 3, 6),
    "Bags": (0, 1, 6, 7),
    "Accessories": (0, 1, 5, 6),
    "Kitchen": (3, 5, 6, 10),
    "Lighting": (0, 1, 8, 9),
    "Furniture": (0, 1, 3, 6),
    "Home decor": (0, 3, 7, 11),
    "Electronics": (0, 1, 7, 9),
    "Beauty": (0, 1, 6, 11),
    "Toys": (0, 1, 7, 9),
}

# What merchants add to be found, whatever they sell.
HYPE = (
    Word("new arrival", "新款"),
    Word("hot sale", "热卖"),
    Word("free shipping", "包邮"),
    Word("gift", "送礼"),
    Word("official", "官方正品"),
    Word("ins", "网红"),
    Word("best price", "特价"),
    Word("premium", "高端"),
)

REGIONS = ("north", "east", "south", "west", "centre")
