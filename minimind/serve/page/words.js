// Every word of the page, in both languages.

import { teach } from "./language.js";

export { say, speak, spoken } from "./language.js";

teach({
  en: {
    skip: "Skip to the question", new: "New chat", conversations: "Conversations", conversation: "Conversation",
    close: "Close", theme: "Light or dark", settings: "Settings", context: "Context in use", glass: "Glass box", inspect: "Looking-glass",
    welcome: "A language model small enough to understand. Ask it something, then look inside its answer.",
    legend: "Each token is coloured by how likely the model found it. Choose one to see what else it could have said.",
    "legend-low": "surprising", "legend-high": "certain",
    question: "Your message", placeholder: "Say something…", think: "Think", tools: "Tools",
    "tools-legend": "The model may call", hint: "Enter sends · Shift Enter starts a line · Esc stops",
    send: "Send", stop: "Stop", system: "System prompt", temperature: "Temperature", top_p: "Top p",
    max_tokens: "Longest answer (tokens)", seed: "Seed", random: "random", frequency_penalty: "Frequency penalty",
    key: "API key", defaults: "Defaults", done: "Done", copy: "Copy", copied: "Copied", again: "Answer again",
    edit: "Edit", save: "Save and send", cancel: "Cancel", delete: "Delete", thinking: "Thinking…", thought: "Thought",
    called: "called", result: "Result", running: "Running…", stopped: "stopped", cut: "cut off at the longest answer",
    tokens: "tokens", empty: "The model said nothing.", retry: "Try again", you: "You", answer: "Answer",
    untitled: "New chat", "no-glass": "The probabilities of this answer were not kept; answer again to see them.",
    "no-key": "This server asks for an API key: enter it in the settings.",
    unreachable: "The server cannot be reached.", loading: "The model is being loaded…",
    full: "The browser's storage is full: older conversations lose their token probabilities.",
    bits: "bits of surprise", alternatives: "What the model could have said here", chosen: "chosen",
    "too-many-calls": "The model called tools too many times in a row.",
  },
  zh: {
    skip: "跳到输入框", new: "新对话", conversations: "对话列表", conversation: "对话",
    close: "关闭", theme: "浅色或深色", settings: "设置", context: "已用上下文", glass: "玻璃盒", inspect: "透视镜",
    welcome: "一个小到可以看懂的语言模型。问它点什么，再看看回答是怎样一步步选出来的。",
    legend: "颜色表示模型认为每个词元有多大可能。点一个词元，看看它本来还可能说什么。",
    "legend-low": "意外", "legend-high": "笃定",
    question: "你的消息", placeholder: "说点什么……", think: "思考", tools: "工具",
    "tools-legend": "允许模型调用", hint: "回车发送 · Shift 加回车换行 · Esc 停止",
    send: "发送", stop: "停止", system: "系统提示词", temperature: "温度", top_p: "Top p",
    max_tokens: "回答最长词元数", seed: "随机种子", random: "随机", frequency_penalty: "频率惩罚",
    key: "API 密钥", defaults: "恢复默认", done: "完成", copy: "复制", copied: "已复制", again: "重新回答",
    edit: "修改", save: "保存并发送", cancel: "取消", delete: "删除", thinking: "思考中……", thought: "思考过程",
    called: "调用了", result: "结果", running: "执行中……", stopped: "已停止", cut: "达到最长长度，被截断",
    tokens: "个词元", empty: "模型什么也没说。", retry: "重试", you: "你", answer: "回答",
    untitled: "新对话", "no-glass": "这条回答的概率没有保存；重新回答即可查看。",
    "no-key": "这个服务器需要 API 密钥：请在设置里填写。",
    unreachable: "连不上服务器。", loading: "模型正在加载……",
    full: "浏览器存储已满：较早的对话不再保留词元概率。",
    bits: "比特的意外程度", alternatives: "这里模型还可能说", chosen: "选中",
    "too-many-calls": "模型连续调用工具的次数太多了。",
  },
});

export const EXAMPLES = {
  en: ["Who are you?", "What is 12 + 30?", "Tell me a short story."],
  zh: ["你是谁？", "12 加 30 等于几？", "讲一个小故事。"],
};
