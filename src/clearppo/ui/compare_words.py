"""What `clearppo compare` says, in English and in Chinese. The Chinese terms are those of docs/glossary.md."""

# name: (English, Chinese). {names} are filled in.
WORDS: dict[str, tuple[str, str]] = {
    "kind.ppo": ("PPO", "PPO"),
    "kind.sft": ("supervised fine-tuning", "有监督微调"),
    "kind.reward": ("reward model", "奖励模型"),
    "iteration": ("iteration", "迭代"),
    "step": ("step", "步"),
    "at.iteration": ("iteration {step}", "第 {step} 次迭代"),
    "at.step": ("step {step}", "第 {step} 步"),
    "many.iteration": ("{n} iterations", "{n} 次迭代"),
    "many.step": ("{n} steps", "{n} 步"),
    "one.iteration": ("{n} iteration", "{n} 次迭代"),
    "one.step": ("{n} step", "{n} 步"),
    "state.finished": ("finished after {done}", "已完成，共 {done}"),
    "state.running": ("running, {done} so far", "运行中，至今 {done}"),
    "state.stopped": ("stopped after {done}", "已停止，至此 {done}"),
    "state.waiting": ("nothing done yet", "还没有开始"),
    "seconds.iteration": ("{s} s an iteration", "每次迭代 {s} 秒"),
    "seconds.step": ("{s} s a step", "每步 {s} 秒"),
    "comma": (", ", "，"),
    "colon": (": ", "："),
    # the verdict
    "same": (
        "The same in every number: {n} numbers in {rounds}{answers}.",
        "每个数都相同：{rounds}中的 {n} 个数{answers}。",
    ),
    "same.answers": (", and {n} recorded answers token by token", "，以及 {n} 条记录下来的回答，逐 token 相同"),
    "same.so_far": (
        "The same in every number as far as both go, {n} numbers in {rounds}{answers}; {which} goes on to {last}.",
        "在双方都走过的部分（{rounds}，{n} 个数{answers}）每个数都相同；{which} 继续走到{last}。",
    ),
    "same.but": (
        "The same in every number that both have, {n} of them in {rounds}; {which} has other metrics as well: {names}.",
        "双方都有的每个数都相同（{rounds}中的 {n} 个）；{which} 还有别的指标：{names}。",
    ),
    "rounding": ("They differ by rounding alone, from {at} on.", "从{at}起只有舍入误差的差别。"),
    "part": ("They part at {at}: {how}.", "从{at}起分开：{how}。"),
    "part.rounding": (
        "They part at {at}: {how}. Rounding sets them apart from {first} on.",
        "从{at}起分开：{how}。从{first}起已有舍入误差的差别。",
    ),
    "nothing_common": (
        "They have no {round} in common: one has rows up to {a}, the other from {b} on.",
        "双方没有共同的{round}：一方到 {a} 为止，另一方从 {b} 开始。",
    ),
    "how.metric": ("{metric} is {a} and {b}", "{metric} 分别是 {a} 和 {b}"),
    "how.prompts": ("other prompts", "提示不同"),
    "how.order": ("the same prompts in another order", "提示相同，次序不同"),
    "how.answers": ("the same prompts, other answers", "提示相同，回答不同"),
    "how.policy": (
        "the same answers, read with other weights or in another precision: {column} differs",
        "回答相同，但用不同的权重或精度读：{column} 不同",
    ),
    "how.scores": ("the same answers, scored otherwise: {column} differs", "回答相同，打分不同：{column} 不同"),
    "how.reference": (
        "the same answers and scores, another reference: {column} differs",
        "回答和得分相同，参考模型不同：{column} 不同",
    ),
    "how.rewards": (
        "the same answers and scores, other rewards made of them: {column} differs",
        "回答和得分相同，由此算出的奖励不同：{column} 不同",
    ),
    "how.credit": (
        "the same rewards, other credit for them: {column} differs",
        "奖励相同，分给各 token 的功劳不同：{column} 不同",
    ),
    "how.learning": (
        "the same advantages, and learning goes another way: {column} differs",
        "优势相同，学习的做法不同：{column} 不同",
    ),
    # options
    "options": ("Options", "选项"),
    "option": ("option", "选项"),
    "options.same": ("All options that have a part in the result are the same.", "与结果有关的选项全都相同。"),
    "options.bits": (
        "These can move the last bits only: {names}.",
        "这些只会影响最末几位：{names}。",
    ),
    "options.none": ("These have no part in the result: {names}.", "这些与结果无关：{names}。"),
    "options.unread": ("{file} cannot be read, so the options were not compared.", "读不出 {file}，所以没有比较选项。"),
    "options.why": (
        "No option explains the difference. What else can be: other files behind the same names, other versions, "
        "threads or another device.",
        "没有选项能解释这个差别。其他可能：同名文件内容不同，版本、线程数或设备不同。",
    ),
    # machine and input
    "machine": ("Machine and files", "机器与文件"),
    "fact": ("what", "项目"),
    "input.other": (
        "{name}: read by both, and not the same (by its SHA-256)",
        "{name}：双方读到的内容不同（按 SHA-256）",
    ),
    "input.same": ("The same to the last bit: {names}.", "逐位相同：{names}。"),
    "read.prompts": ("prompts", "提示"),
    "read.start model": ("start model", "起始模型"),
    "read.reward model": ("reward model", "奖励模型"),
    "read.training rows": ("training rows", "训练数据"),
    # the record
    "data": ("Prompts and answers", "提示与回答"),
    "record.common": (
        "Both have a record of {rounds}, with {n} answers to the same prompts in the same places.",
        "双方都记录了 {rounds}，其中同一位置上对同一提示的回答有 {n} 条。",
    ),
    "record.none": (
        "There is no iteration that both have recorded, so prompts and answers were not compared.",
        "没有双方都记录了的迭代，所以没有比较提示和回答。",
    ),
    "record.damaged": (
        "{n} more of the files of the records cannot be read.",
        "记录中还有 {n} 个文件读不出来。",
    ),
    "record.batch": (
        "An iteration has {a} recorded answers in A and {b} in B.",
        "每次迭代记录的回答：A 有 {a} 条，B 有 {b} 条。",
    ),
    "order.same": ("Prompts: the same, in the same order.", "提示：内容和次序都相同。"),
    "order.other": (
        "Prompts: the same and in the same order until {at}, whose answer {row} is to another one; of all prompts "
        "{shared} came up in both.",
        "提示：到{at}为止相同，从其中的回答 {row} 起不同；全部提示中 {shared} 在双方都出现过。",
    ),
    "order.first": (
        "Prompts: others from the first recorded iteration on; of all prompts {shared} came up in both.",
        "提示：从最早记录的迭代起就不同；全部提示中 {shared} 在双方都出现过。",
    ),
    "order.shuffled": (
        "Prompts: the same until {at}, where they come in another order.",
        "提示：到{at}为止相同，那里次序开始不同。",
    ),
    "answers.same": ("Answers: the same, token by token.", "回答：逐 token 相同。"),
    "answers.none": (
        "Answers: there are no two to the same prompt in the same place.",
        "回答：没有同一位置上对同一提示的两条回答。",
    ),
    "answers.other": (
        "Answers: the first other one is answer {row} of {at}, from token {token} on; {n} of its {of} answers to the "
        "same prompts differ.",
        "回答：最早的不同是{at}的回答 {row}，从 token {token} 起；这次迭代对相同提示的 {of} 条回答中有 {n} 条不同。",
    ),
    "before.same": (
        "Until they differ, tokens had the same log-probs to the last bit: the same weights, other random numbers.",
        "分开之前各 token 的对数概率逐位相同：权重相同，随机数不同。",
    ),
    "before.other": (
        "Until they differ, tokens had other log-probs, by {size} at most: other weights, or rounding if that is tiny.",
        "分开之前各 token 的对数概率已经不同，最多相差 {size}：权重不同；如果极小，则是舍入误差。",
    ),
    "columns": ("What differs in {at}, in the order in which it comes about:", "{at}里不同的数，按产生的次序："),
    "column": ("column", "列"),
    "column.rows": ("answers", "回答数"),
    "column.first": ("first in", "最早在"),
    "column.size": ("by at most", "最大差"),
    "place": ("answer {row}", "回答 {row}"),
    "place.token": ("answer {row}, token {token}", "回答 {row}，token {token}"),
    # metrics
    "numbers": ("Numbers", "数"),
    "numbers.same": ("All {n} metrics are the same in {rounds}.", "{rounds}里 {n} 个指标全都相同。"),
    "numbers.first": (
        "{n} of {of} metrics differ at {at}, the first step that differs ({kind}):",
        "{at}最早出现不同，{of} 个指标中有 {n} 个不同（{kind}）：",
    ),
    "numbers.real": (
        "{n} of {of} metrics differ at {at}, the first with more than rounding:",
        "{at}最早出现超过舍入误差的不同，{of} 个指标中有 {n} 个不同：",
    ),
    "numbers.more": ("and {n} more", "还有 {n} 个"),
    "numbers.only": ("Only {which} has {names}.", "只有 {which} 有 {names}。"),
    "kind.rounding": ("rounding", "舍入误差"),
    "kind.real": ("more than rounding", "超过舍入误差"),
    "metric": ("metric", "指标"),
    "difference": ("B − A", "B − A"),
    "of_size": ("of its size", "相对大小"),
    "ends": ("Where they end", "结束时"),
    "ends.note": (
        "Up to {at}, the last that both have: the mean of the last rows, a quarter of all and at most {n}, ± their "
        "standard deviation.",
        "到{at}（双方都有的最后一次）为止：最后四分之一、至多 {n} 行的均值 ± 标准差。",
    ),
    "ends.apart": ("apart", "分开"),
    "ends.within": ("within", "± 之内"),
    "ends.same": ("same", "相同"),
    "curves": ("Curves", "曲线"),
    "alarms": ("Alarms", "警报"),
    "alarms.none": ("no alarm", "没有警报"),
    "alarm.over": ("{a} to {b}", "{a} 至 {b}"),
    "alarm.on": ("from {a} on", "自 {a} 起"),
    "browser": ("In the browser", "在浏览器里"),
    "browser.note": ("Both curves over each other:", "两条曲线叠在一起："),
    "browser.page": ("and there the page {page}", "然后打开页面 {page}"),
}
