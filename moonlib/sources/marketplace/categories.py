"""The marketplace's category tree: 11 departments, 50 leaves, in the order in which `render` draws them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One leaf and the department above it, in English and Chinese."""

    department_en: str
    department_zh: str
    name_en: str
    name_zh: str

    @property
    def path(self) -> str:
        """The category path as the products table writes it, such as `Fashion/T-shirt`."""
        return f"{self.department_en}/{self.name_en}"


_TREE: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("Fashion", "服饰"): (
        ("T-shirt", "T恤"),
        ("Hoodie", "连帽卫衣"),
        ("Dress", "连衣裙"),
        ("Trousers", "长裤"),
        ("Skirt", "半身裙"),
        ("Tank top", "背心"),
    ),
    ("Shoes", "鞋靴"): (
        ("Sneaker", "运动鞋"),
        ("Boot", "靴子"),
        ("High heel", "高跟鞋"),
        ("Slipper", "拖鞋"),
    ),
    ("Bags", "箱包"): (
        ("Handbag", "手提包"),
        ("Backpack", "双肩包"),
        ("Suitcase", "行李箱"),
        ("Tote bag", "托特包"),
        ("Wallet", "钱包"),
    ),
    ("Accessories", "配饰"): (
        ("Baseball cap", "棒球帽"),
        ("Sunglasses", "太阳镜"),
        ("Wristwatch", "手表"),
        ("Umbrella", "雨伞"),
        ("Necktie", "领带"),
    ),
    ("Kitchen", "厨具"): (
        ("Mug", "马克杯"),
        ("Teapot", "茶壶"),
        ("Frying pan", "平底锅"),
        ("Water bottle", "水壶"),
        ("Wine glass", "酒杯"),
        ("Bowl", "碗"),
    ),
    ("Lighting", "灯具"): (
        ("Table lamp", "台灯"),
        ("Pendant lamp", "吊灯"),
        ("Floor lamp", "落地灯"),
        ("Lantern", "灯笼"),
    ),
    ("Furniture", "家具"): (
        ("Chair", "椅子"),
        ("Sofa", "沙发"),
        ("Table", "桌子"),
        ("Bookcase", "书架"),
        ("Stool", "凳子"),
    ),
    ("Home decor", "家居饰品"): (
        ("Cushion", "抱枕"),
        ("Vase", "花瓶"),
        ("Plant pot", "花盆"),
        ("Wall clock", "挂钟"),
        ("Rug", "地毯"),
    ),
    ("Electronics", "数码"): (
        ("Headphones", "头戴式耳机"),
        ("Speaker", "音箱"),
        ("Phone case", "手机壳"),
        ("Camera", "相机"),
    ),
    ("Beauty", "美妆"): (
        ("Perfume", "香水"),
        ("Lipstick", "口红"),
        ("Hand mirror", "手镜"),
    ),
    ("Toys", "玩具"): (
        ("Teddy bear", "玩具熊"),
        ("Toy car", "玩具车"),
        ("Kite", "风筝"),
    ),
}

CATEGORIES: tuple[Category, ...] = tuple(
    Category(*department, *leaf) for department, leaves in _TREE.items() for leaf in leaves
)
