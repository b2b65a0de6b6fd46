"""Fixed tables behind the built-in tools: no network, so the same question always has the same answer."""

# city: (中文, degrees Celsius, relative humidity in %, condition)
WEATHER = {
    "Paris": ("巴黎", 18, 60, "cloudy"),
    "London": ("伦敦", 14, 80, "rainy"),
    "Tokyo": ("东京", 21, 55, "sunny"),
    "Beijing": ("北京", 24, 35, "sunny"),
    "Shanghai": ("上海", 26, 70, "cloudy"),
    "Berlin": ("柏林", 15, 65, "windy"),
    "Rome": ("罗马", 25, 50, "sunny"),
    "Cairo": ("开罗", 33, 20, "sunny"),
    "Sydney": ("悉尼", 20, 60, "windy"),
    "Madrid": ("马德里", 28, 30, "sunny"),
    "New York": ("纽约", 19, 55, "cloudy"),
    "Moscow": ("莫斯科", 6, 75, "snowy"),
    "Singapore": ("新加坡", 31, 85, "rainy"),
    "Guangzhou": ("广州", 29, 80, "rainy"),
    "Shenzhen": ("深圳", 30, 75, "cloudy"),
    "Hangzhou": ("杭州", 23, 70, "rainy"),
    "Chengdu": ("成都", 22, 75, "foggy"),
    "Xi'an": ("西安", 20, 45, "sunny"),
}
CONDITIONS = {
    "sunny": "晴",
    "cloudy": "多云",
    "rainy": "小雨",
    "windy": "有风",
    "snowy": "小雪",
    "foggy": "有雾",
}

# Zones without daylight saving time: hours from UTC are all there is to know.
UTC_HOURS = {
    "UTC": 0,
    "Asia/Shanghai": 8,
    "Asia/Tokyo": 9,
    "Asia/Seoul": 9,
    "Asia/Singapore": 8,
    "Asia/Bangkok": 7,
    "Asia/Dubai": 4,
    "Africa/Nairobi": 3,
    "Africa/Lagos": 1,
    "America/Bogota": -5,
    "America/Phoenix": -7,
}

US_DOLLARS = {
    "USD": 1.0,
    "CNY": 0.14,
    "EUR": 1.1,
    "GBP": 1.3,
    "JPY": 0.0068,
    "HKD": 0.128,
    "KRW": 0.00074,
    "CAD": 0.73,
    "AUD": 0.66,
    "CHF": 1.15,
    "SGD": 0.76,
}

# unit: (dimension, size in the dimension's base unit)
UNITS = {
    "km": ("length", 1000.0),
    "m": ("length", 1.0),
    "cm": ("length", 0.01),
    "mm": ("length", 0.001),
    "mile": ("length", 1609.344),
    "yard": ("length", 0.9144),
    "foot": ("length", 0.3048),
    "inch": ("length", 0.0254),
    "kg": ("mass", 1000.0),
    "g": ("mass", 1.0),
    "lb": ("mass", 453.59237),
    "oz": ("mass", 28.349523125),
    "jin": ("mass", 500.0),
    "l": ("volume", 1.0),
    "ml": ("volume", 0.001),
    "gallon": ("volume", 3.785411784),
    "hour": ("time", 3600.0),
    "minute": ("time", 60.0),
    "second": ("time", 1.0),
    "day": ("time", 86400.0),
}
TEMPERATURES = ("celsius", "fahrenheit", "kelvin")
UNIT_ALIASES = {
    "kilometer": "km", "kilometers": "km", "公里": "km", "千米": "km",
    "meter": "m", "meters": "m", "米": "m", "centimeter": "cm", "centimeters": "cm", "厘米": "cm", "毫米": "mm",
    "miles": "mile", "英里": "mile", "yards": "yard", "码": "yard",
    "feet": "foot", "ft": "foot", "英尺": "foot", "inches": "inch", "in": "inch", "英寸": "inch",
    "kilogram": "kg", "kilograms": "kg", "公斤": "kg", "千克": "kg", "gram": "g", "grams": "g", "克": "g",
    "pound": "lb", "pounds": "lb", "lbs": "lb", "磅": "lb", "ounce": "oz", "ounces": "oz", "盎司": "oz", "斤": "jin",
    "liter": "l", "liters": "l", "升": "l", "毫升": "ml", "gallons": "gallon", "加仑": "gallon",
    "hours": "hour", "小时": "hour", "minutes": "minute", "分钟": "minute", "seconds": "second", "秒": "second",
    "days": "day", "天": "day",
    "c": "celsius", "°c": "celsius", "摄氏度": "celsius", "f": "fahrenheit", "°f": "fahrenheit", "华氏度": "fahrenheit",
    "k": "kelvin", "开尔文": "kelvin",
}  # fmt: skip

DICTIONARY = {
    "hello": "你好", "good morning": "早上好", "good night": "晚安", "thank you": "谢谢", "goodbye": "再见",
    "water": "水", "bread": "面包", "rice": "米饭", "apple": "苹果", "tea": "茶", "milk": "牛奶",
    "cat": "猫", "dog": "狗", "bird": "鸟", "horse": "马", "flower": "花", "tree": "树", "river": "河",
    "mountain": "山", "sun": "太阳", "moon": "月亮", "star": "星星", "rain": "雨", "snow": "雪",
    "book": "书", "door": "门", "school": "学校", "friend": "朋友", "mother": "母亲", "father": "父亲",
    "red": "红色", "blue": "蓝色", "green": "绿色", "one": "一", "two": "二", "three": "三",
    "i love you": "我爱你", "see you tomorrow": "明天见", "happy birthday": "生日快乐", "hello world": "你好，世界",
}  # fmt: skip
LANGUAGES = {
    "zh": "zh", "chinese": "zh", "中文": "zh", "汉语": "zh", "zh-cn": "zh",
    "en": "en", "english": "en", "英文": "en", "英语": "en",
}  # fmt: skip
