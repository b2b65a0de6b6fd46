"""What the stories and notices of the small world are made of."""

# thing: (中文, price in coins, what it is, 解释)
THINGS = {
    "cup": ("杯子", 6, "something we drink from", "用来喝水的东西"),
    "lamp": ("台灯", 18, "something that gives light in the evening", "晚上用来照明的东西"),
    "chair": ("椅子", 25, "a seat for one person", "给一个人坐的家具"),
    "umbrella": ("雨伞", 12, "something that keeps us dry in the rain", "下雨时用来挡雨的东西"),
    "book": ("书", 9, "many pages with words to read", "可以阅读的许多书页"),
    "clock": ("时钟", 20, "a thing that shows the time", "用来看时间的东西"),
    "kite": ("风筝", 7, "a toy that flies in the wind", "能在风里飞的玩具"),
    "drum": ("鼓", 15, "a round instrument that we beat", "用来敲的圆形乐器"),
    "basket": ("篮子", 8, "something to carry things in", "用来装东西的容器"),
    "boat": ("小船", 60, "something that carries us over the water", "载人过河的交通工具"),
    "key": ("钥匙", 3, "a thing that opens a lock", "用来开锁的东西"),
    "mirror": ("镜子", 14, "a glass in which we see ourselves", "能照出自己的玻璃"),
    "bridge": ("桥", 500, "a way over a river", "跨过河流的路"),
    "blanket": ("毯子", 16, "something warm for the night", "晚上用来保暖的东西"),
}
# dish: (中文, ingredients, 材料, steps, 做法)
RECIPES = {
    "tomato soup": (
        "番茄汤",
        "tomatoes, water and salt",
        "番茄、水和盐",
        "cut the tomatoes and cook them in water for twenty minutes, then add salt",
        "把番茄切开，在水里煮二十分钟，再放盐",
    ),
    "fried rice": (
        "炒饭",
        "cooked rice, two eggs and oil",
        "米饭、两个鸡蛋和油",
        "fry the eggs in oil, add the rice and stir for five minutes",
        "先用油炒鸡蛋，再放米饭炒五分钟",
    ),
    "pancakes": (
        "煎饼",
        "flour, milk and one egg",
        "面粉、牛奶和一个鸡蛋",
        "mix everything and fry a thin layer on both sides",
        "把材料搅匀，薄薄地煎好两面",
    ),
    "apple pie": (
        "苹果派",
        "apples, flour, butter and sugar",
        "苹果、面粉、黄油和糖",
        "make a dough, put the apples on it and bake it for forty minutes",
        "和好面团，放上苹果，烤四十分钟",
    ),
    "noodle salad": (
        "凉面",
        "noodles, cucumber and vinegar",
        "面条、黄瓜和醋",
        "boil the noodles, cool them and mix them with the rest",
        "把面条煮熟放凉，再和其他材料拌在一起",
    ),
    "steamed fish": (
        "蒸鱼",
        "one fish, ginger and soy sauce",
        "一条鱼、姜和酱油",
        "lay the ginger on the fish, steam it for ten minutes and add the sauce",
        "把姜放在鱼上，蒸十分钟，再淋酱油",
    ),
}
# grandparent, parent, child
FAMILIES = {
    "en": (
        ("Old Hugo", "Bruno", "Mimi"),
        ("Old Greta", "Marta", "Pip"),
        ("Old Tobias", "Rita", "Nils"),
        ("Old Agnes", "Konrad", "Lotte"),
    ),
    "zh": (
        ("老周爷爷", "周大海", "小海星"),
        ("阿婆", "阿珍", "小豆子"),
        ("石老伯", "石头叔", "小石子"),
        ("花奶奶", "花姐", "小花瓣"),
    ),
}
CHILDREN = {"en": ("Tom", "Lily", "Ben", "Mia", "Sam", "Ella"), "zh": ("小明", "小红", "小华", "丁丁", "圆圆", "阿宝")}
PLACES = {
    "en": ("the river", "the market", "the forest", "the school", "the old bridge", "the garden"),
    "zh": ("河边", "市场", "树林里", "学校", "老桥边", "花园里"),
}
TREASURES = {
    "en": ("shells", "stones", "apples", "flowers", "buttons", "nuts"),
    "zh": ("贝壳", "石子", "苹果", "花", "纽扣", "坚果"),
}
WEATHERS = {"en": ("sunny", "rainy", "windy", "cold", "warm"), "zh": ("晴朗", "阴凉", "凉爽", "寒冷", "温暖")}
ENDINGS = {
    "en": (
        "They walked home together and were happy.",
        "In the evening they told everybody about it.",
        "From that day on they were good friends.",
        "Then the sun went down and it was time to sleep.",
        "It was a very good day.",
    ),
    "zh": (
        "他们高高兴兴地一起回家了。",
        "晚上，他们把这件事讲给大家听。",
        "从那天起，他们成了好朋友。",
        "太阳下山了，该睡觉了。",
        "这真是美好的一天。",
    ),
}
