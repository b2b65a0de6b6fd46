// Every word of the page's frame, in both languages; what a room says is beside the room.

import { say, teach } from "/page/language.js";

export { say, speak, spoken, words } from "/page/language.js";

teach({
  en: {
    skip: "Skip to the room", "looking-glass": "Looking-glass", theme: "Light or dark", prompt: "What the model is given",
    kind: "Kind of prompt", text: "Text", conversation: "Conversation", examples: "Examples", "choose-example": "Choose an example…",
    placeholder: "Any text, in any language", "add-turn": "Add a turn", "remove-turn": "Remove this turn", begins: "The answer begins with", look: "Look",
    "look-hint": "Ctrl Enter looks", system: "System", user: "User", assistant: "Assistant", tool: "Tool",
    checkpoint: "Checkpoint", step: "step", rooms: "Rooms", code: "The code", docs: "The docs",
    heatmap: "heat map; arrow keys read its cells", chart: "line chart; arrow keys read its points", "as-table": "As a table",
    nothing: "There is nothing to draw.", unreachable: "The server cannot be reached.", computing: "Computing…", ready: "Ready.",
    "no-key": "This server asks for an API key: open the chat page and enter it in the settings.",
    layer: "layer", layers: "layers", head: "head", token: "token", tokens: "tokens", probability: "probability",
    rank: "rank", bytes: "bytes", parameters: "M parameters", experts: "experts", embedding: "embedding", heads: "heads", mlp: "MLP", off: "Switched off", "on-again": "Switch all on again", loss: "loss", nats: "nats",
  },
  zh: {
    skip: "跳到展室", "looking-glass": "透视镜", theme: "浅色或深色", prompt: "给模型的输入",
    kind: "输入的种类", text: "文本", conversation: "对话", examples: "示例", "choose-example": "选一个示例……",
    placeholder: "任何语言的任何文本", "add-turn": "加一轮", "remove-turn": "删除这一轮", begins: "回答的开头", look: "查看",
    "look-hint": "Ctrl 加回车查看", system: "系统", user: "用户", assistant: "助手", tool: "工具",
    checkpoint: "检查点", step: "步", rooms: "展室", code: "代码", docs: "文档",
    heatmap: "热力图，方向键逐格读数", chart: "折线图，方向键逐点读数", "as-table": "以表格查看",
    nothing: "没有可画的内容。", unreachable: "连不上服务器。", computing: "计算中……", ready: "完成。",
    "no-key": "这个服务器需要 API 密钥：请打开聊天页，在设置里填写。",
    layer: "层", layers: "层", head: "头", token: "词元", tokens: "个词元", probability: "概率",
    rank: "名次", bytes: "字节", parameters: "M 参数", experts: "个专家", embedding: "嵌入", heads: "个头", mlp: "MLP", off: "已关闭", "on-again": "全部重新打开", loss: "损失", nats: "奈特",
  },
});

/** A checkpoint as it is written; a model that came without its run's log has no step. */
export const placeName = ({ stage, step }) => (step == null ? stage : `${stage}, ${say("step")} ${step.toLocaleString("en")}`);
