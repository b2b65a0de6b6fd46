"""What users say when they need a tool, and how its result is told; the fields are those of `tooltalk`."""

REQUESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "calculate_math": (
            "Calculate {expression} for me.",
            "What is {expression}? Use the tool.",
            "Work out {expression}.",
        ),
        "get_current_time": (
            "What time is it in {city}?",
            "Tell me the time in {city}.",
            "How late is it now in {city}?",
            "I need the current time in {city}.",
        ),
        "random_number": (
            "Give me a random number from {min} to {max}.",
            "Pick a number between {min} and {max}.",
            "Draw a random number from {min} to {max}.",
        ),
        "text_length": (
            "How many words are in: {text}",
            "Count the words of this text: {text}",
            "How long is this text: {text}",
        ),
        "unit_converter": (
            "How many {target} are {value} {source}?",
            "Convert {value} {source} to {target}.",
            "What are {value} {source} in {target}?",
        ),
        "get_current_weather": (
            "How is the weather in {location}?",
            "What is the weather like in {location} now?",
            "Tell me the weather in {location}.",
            "Do I need a coat in {location} today?",
        ),
        "get_exchange_rate": (
            "What is the exchange rate from {source} to {target}?",
            "How many {target} do I get for one of my {source}?",
            "Look up the rate of {source} against {target}.",
        ),
        "translate_text": (
            "Translate into {target}: {text}",
            "How do you say this in {target}: {text}",
            "I need this in {target}: {text}",
        ),
    },
    "zh": {
        "calculate_math": (
            "帮我算一下 {expression}。",
            "请用工具计算 {expression}。",
            "{expression} 的结果是多少？请用工具。",
        ),
        "get_current_time": (
            "{city}现在几点？",
            "请告诉我{city}的时间。",
            "现在{city}是什么时间？",
            "查一下{city}的当前时间。",
        ),
        "random_number": (
            "给我一个{min}到{max}之间的随机数。",
            "从{min}到{max}随机选一个数。",
            "请在{min}和{max}之间随机抽一个数。",
        ),
        "text_length": ("这段文字有多少个字：{text}", "数一数有几个字：{text}", "请统计字数：{text}"),
        "unit_converter": (
            "{value}{source}等于多少{target}？",
            "把{value}{source}换算成{target}。",
            "{value}{source}是多少{target}？",
        ),
        "get_current_weather": (
            "{location}的天气怎么样？",
            "查一下{location}的天气。",
            "{location}今天天气如何？",
            "今天去{location}要带伞吗？",
        ),
        "get_exchange_rate": (
            "{source}兑{target}的汇率是多少？",
            "查一下{source}对{target}的汇率。",
            "{source}现在能换多少{target}？",
        ),
        "translate_text": ("把这句话翻译成{target}：{text}", "{text} 用{target}怎么说？", "请翻译成{target}：{text}"),
    },
}

REPLIES: dict[str, dict[str, str]] = {
    "en": {
        "calculate_math": "{expression} = {result}.",
        "get_current_time": "The time in {city} is {datetime}.",
        "random_number": "Your random number is {result}.",
        "text_length": "The text has {words} words and {characters} characters.",
        "unit_converter": "{value} {source} are {result} {target}.",
        "get_current_weather": "The weather in {location} is {condition}, {temperature}.",
        "get_exchange_rate": "The exchange rate is {rate}.",
        "translate_text": "The translation is: {translated}",
    },
    "zh": {
        "calculate_math": "{expression} = {result}。",
        "get_current_time": "{city}现在的时间是{datetime}。",
        "random_number": "抽到的随机数是{result}。",
        "text_length": "这段文字有{characters}个字。",
        "unit_converter": "{value}{source}等于{result}{target}。",
        "get_current_weather": "{location}的天气是{condition}，气温{temperature}。",
        "get_exchange_rate": "汇率是{rate}。",
        "translate_text": "翻译结果：{translated}",
    },
}
