"""The marketplace's category tree: 11 departments, 134 leaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One leaf and the department above it, in English and Chinese.

    Leaves of one `kind` are sub-types of the same thing: their latents are nearer than those of other leaves of the
    department. No table says the kind.
    """

    department_en: str
    department_zh: str
    kind: str
    name_en: str
    name_zh: str

    @property
    def path(self) -> str:
        """The category path as the products table writes it, such as `Fashion/T-shirt`."""
        return f"{self.department_en}/{self.name_en}"


_TREE: dict[tuple[str, str], dict[str, tuple[tuple[str, str], ...]]] = {
    ("Fashion", "服饰"): {
        "tops": (("T-shirt", "T恤"), ("Polo shirt", "Polo衫"), ("Shirt", "衬衫"), ("Tank top", "背心")),
        "jumpers": (("Hoodie", "连帽卫衣"), ("Sweater", "毛衣")),
        "outerwear": (("Jacket", "夹克"), ("Coat", "大衣")),
        "one-pieces": (("Dress", "连衣裙"), ("Dungarees", "背带裤"), ("Swimsuit", "泳衣")),
        "bottoms": (("Trousers", "长裤"), ("Shorts", "短裤"), ("Skirt", "半身裙")),
    },
    ("Shoes", "鞋靴"): {
        "trainers": (("Sneaker", "运动鞋"), ("High-top", "高帮鞋")),
        "boots": (("Boot", "靴子"), ("Rain boot", "雨靴")),
        "heels": (("High heel", "高跟鞋"), ("Wedge", "坡跟鞋")),
        "flats": (("Loafer", "乐福鞋"), ("Ballet flat", "芭蕾鞋")),
        "open shoes": (("Slipper", "拖鞋"), ("Sandal", "凉鞋"), ("Flip-flop", "人字拖")),
    },
    ("Bags", "箱包"): {
        "hand bags": (("Handbag", "手提包"), ("Tote bag", "托特包"), ("Bucket bag", "水桶包"), ("Briefcase", "公文包")),
        "packs": (("Backpack", "双肩包"), ("Drawstring bag", "束口袋")),
        "luggage": (("Suitcase", "行李箱"), ("Duffel bag", "旅行袋")),
        "shoulder bags": (("Messenger bag", "斜挎包"), ("Belt bag", "腰包")),
        "purses": (("Wallet", "钱包"), ("Clutch", "手拿包")),
    },
    ("Accessories", "配饰"): {
        "hats": (("Baseball cap", "棒球帽"), ("Beanie", "毛线帽"), ("Sun hat", "遮阳帽")),
        "eyewear": (("Sunglasses", "太阳镜"),),
        "jewellery": (("Wristwatch", "手表"), ("Necklace", "项链"), ("Earrings", "耳环")),
        "neckwear": (("Necktie", "领带"), ("Bow tie", "领结"), ("Scarf", "围巾")),
        "umbrellas": (("Umbrella", "雨伞"),),
        "small wear": (("Belt", "腰带"), ("Glove", "手套"), ("Sock", "袜子")),
    },
    ("Kitchen", "厨具"): {
        "cups": (("Mug", "马克杯"), ("Wine glass", "酒杯")),
        "pots": (("Teapot", "茶壶"), ("Kettle", "烧水壶"), ("Jug", "水罐")),
        "pans": (("Frying pan", "平底锅"), ("Stockpot", "汤锅")),
        "to go": (("Water bottle", "水壶"), ("Travel mug", "随行杯"), ("Lunch box", "饭盒")),
        "tableware": (("Bowl", "碗"), ("Plate", "盘子")),
        "cutting": (("Chopping board", "砧板"), ("Kitchen knife", "菜刀")),
    },
    ("Lighting", "灯具"): {
        "table lamps": (("Table lamp", "台灯"), ("Desk lamp", "护眼灯")),
        "hanging lamps": (("Pendant lamp", "吊灯"), ("Chandelier", "枝形灯"), ("Wall lamp", "壁灯")),
        "floor lamps": (("Floor lamp", "落地灯"),),
        "lanterns": (("Lantern", "灯笼"), ("Candle holder", "烛台")),
        "small lights": (("Light bulb", "灯泡"), ("Torch", "手电筒")),
    },
    ("Furniture", "家具"): {
        "chairs": (("Chair", "椅子"), ("Office chair", "办公椅"), ("Rocking chair", "摇椅"), ("Stool", "凳子")),
        "sofas": (("Sofa", "沙发"), ("Armchair", "扶手椅"), ("Bench", "长椅")),
        "tables": (("Table", "桌子"), ("Desk", "书桌")),
        "storage": (("Bookcase", "书架"), ("Wardrobe", "衣柜"), ("Chest of drawers", "斗柜")),
        "beds": (("Bed", "床"),),
    },
    ("Home decor", "家居饰品"): {
        "textiles": (("Cushion", "抱枕"), ("Curtain", "窗帘"), ("Rug", "地毯")),
        "vessels": (("Vase", "花瓶"), ("Plant pot", "花盆"), ("Basket", "收纳篮")),
        "clocks": (("Wall clock", "挂钟"), ("Alarm clock", "闹钟"), ("Hourglass", "沙漏")),
        "wall decor": (("Picture frame", "相框"), ("Wreath", "花环")),
        "candles": (("Candle", "香薰蜡烛"),),
    },
    ("Electronics", "数码"): {
        "earphones": (("Headphones", "头戴式耳机"), ("Earbuds", "耳塞")),
        "sound": (("Speaker", "音箱"), ("Radio", "收音机"), ("Microphone", "麦克风")),
        "phone cases": (("Phone case", "手机壳"),),
        "cameras": (("Camera", "相机"),),
        "computers": (("Laptop", "笔记本电脑"), ("Keyboard", "键盘"), ("Computer mouse", "鼠标")),
        "entertainment": (("Game controller", "游戏手柄"), ("Television", "电视机")),
        "fans": (("Fan", "电风扇"),),
    },
    ("Beauty", "美妆"): {
        "bottles": (("Perfume", "香水"), ("Nail polish", "指甲油"), ("Lotion", "乳液")),
        "make-up": (("Lipstick", "口红"), ("Compact", "粉饼"), ("Cream jar", "面霜")),
        "hair care": (("Hairbrush", "气垫梳"), ("Hair dryer", "吹风机")),
        "hand tools": (("Hand mirror", "手镜"), ("Makeup brush", "化妆刷")),
    },
    ("Toys", "玩具"): {
        "animals": (("Teddy bear", "玩具熊"), ("Rubber duck", "橡皮鸭")),
        "vehicles": (
            ("Toy car", "玩具车"),
            ("Toy train", "玩具火车"),
            ("Toy boat", "玩具船"),
            ("Toy rocket", "玩具火箭"),
        ),
        "outdoor toys": (("Kite", "风筝"), ("Ball", "皮球")),
        "playthings": (("Spinning top", "陀螺"), ("Robot", "机器人"), ("Building blocks", "积木")),
    },
}

CATEGORIES: tuple[Category, ...] = tuple(
    Category(*department, kind, *leaf)
    for department, kinds in _TREE.items()
    for kind, leaves in kinds.items()
    for leaf in leaves
)
