// Over time: the loss curve, the loss of each token of the prompt, and the facts, at every checkpoint of the run.

import { h } from "/page/dom.js";
import { chart } from "./chart.js";
import { heatmap } from "./heatmap.js";
import { later } from "./later.js";
import { brief, percent } from "./scale.js";
import { visible } from "./strip.js";
import { placeName, words } from "./words.js";

const say = words({
  en: {
    title: "Over time",
    explanation: "A run keeps checkpoints, and each can be looked at as it was: move the slider, in any room. Here is the whole course at once: the loss curve with the slider on it, how surprised each checkpoint is by every token of the prompt, and when each held-out fact, which was told but never asked about in training, was learned.",
    "one-checkpoint": "This is a single model. Open the folder of a run, whose checkpoints were kept, to see how it came to be: minimind inspect RUN",
    curve: "Loss of the run", training: "training", validation: "validation, bits per byte", "token-loss": "Loss of each token at each checkpoint", learned: "When each fact was learned", never: "never",
    "facts-right": "Held-out facts answered right", share: "share",
    waits: "Seconds a rollout that trainer and engine waited for each other", "trainer-waits": "trainer, for answers", "engine-waits": "engine, for the trainer", seconds: "seconds",
  },
  zh: {
    title: "随时间",
    explanation: "训练会留下检查点，每一个都可以按当时的样子来看：在任何展室里移动滑块。这里把整个过程放在一起：损失曲线和上面的滑块，每个检查点对输入里每个词元有多意外，以及每条留出的事实（讲过但训练里从没问过）是什么时候学会的。",
    "one-checkpoint": "这是单个模型。打开保留了检查点的训练目录，就能看到它是怎样学成的：minimind inspect RUN",
    curve: "训练的损失", training: "训练", validation: "验证，每字节比特数", "token-loss": "每个检查点上每个词元的损失", learned: "每条事实是什么时候学会的", never: "从未",
    "facts-right": "答对的留出事实", share: "比例",
    waits: "每轮 rollout 训练端和引擎互相等待的秒数", "trainer-waits": "训练端等回答", "engine-waits": "引擎等训练端", seconds: "秒",
  },
});

export const room = {
  id: "time",
  say,
  async show({ state, given, model, place: here, ask, set }) {
    const steps = model.checkpoints;
    if (steps.length < 2) return [h("p", {}, say("one-checkpoint"))];
    const go = (step, stage = here.stage) => set({ checkpoint: steps.filter((one) => one.stage === stage).reduce((best, one) => (Math.abs(one.step - step) < Math.abs(best.step - step) ? one : best)).name });
    const [{ runs }, history] = await Promise.all([ask("curve"), ask("history", { ...given(), checkpoint: null })]);
    const names = steps.map(placeName);
    const curve = ({ stage, loss, valid }) => chart({
      series: [{ name: say("training"), points: loss }, ...(valid.length ? [{ name: say("validation"), points: valid }] : [])], label: `${say("curve")}: ${stage}`, xTitle: `${stage}, ${say("step")}`, yTitle: say("loss"),
      mark: stage === here.stage ? here.step : null, onchoose: (step) => go(step, stage),
    });
    const waits = ({ stage, trainer_wait: trainer, engine_wait: engine }) => chart({
      series: [{ name: say("trainer-waits"), points: trainer }, { name: say("engine-waits"), points: engine }], label: `${say("waits")}: ${stage}`, xTitle: `${stage}, ${say("step")}`, yTitle: say("seconds"),
    });
    return [
      ...runs.filter(({ loss }) => loss.length).map(curve),
      ...runs.filter(({ trainer_wait: waited }) => waited.length).map(waits), // only where rollouts went ahead
      h("h3", {}, say("token-loss")),
      heatmap({ values: history.losses, rows: names, columns: history.tokens.slice(1).map(visible), label: say("token-loss"), wide: 18, tall: 20,
        about: (row, at) => `${visible(history.tokens[at + 1])}, ${names[row]}: ${brief(history.losses[row][at])} ${say("nats")}`, onchoose: (row) => set({ checkpoint: steps[row].name }) }),
      h("h3", {}, say("learned")),
      later(ask("learned", { off: state.off }), (found) => facts(found.facts, names, (at) => set({ checkpoint: steps[at].name }))),
    ];
  },
};

/** Which share of the facts each checkpoint knows, and since when each fact is known. */
function facts(all, names, go) {
  if (!all.length) return [h("p", { class: "soft" }, say("nothing"))];
  const share = names.map((_, at) => [at, all.filter(({ right }) => right[at]).length / all.length]);
  const since = ({ right }) => right.lastIndexOf(false) + 1; // from then on it stays right
  const rows = all.map((fact) => [since(fact), fact]).sort(([a], [b]) => a - b);
  return [
    chart({ series: [{ name: say("share"), points: share }], label: say("facts-right"), xTitle: say("checkpoint"), yTitle: say("facts-right"), range: [0, 1], xName: (at) => names[at] ?? "", yName: percent, onchoose: go }),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("learned") }, h("table", {}, h("caption", {}, say("learned")),
      h("tbody", {}, ...rows.map(([at, { question, answer }]) => h("tr", {}, h("td", {}, question), h("td", {}, answer), h("td", {}, names[at] ?? say("never"))))))),
  ];
}
