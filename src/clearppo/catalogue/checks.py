"""What every check of `clearppo doctor` looks at. Its thresholds stand in docs/doctor.md."""

from clearppo.catalogue.words import CheckWords

CHECKS = {
    "chat_template": CheckWords(
        title=("chat template", "对话模板"),
        meaning=(
            "Renders a prompt, encodes and decodes it: nothing may be lost, the special words must be single tokens, "
            "the user's last message must be in it, and the place where the answer begins.",
            "渲染一条提示，编码再解码：不能丢东西，特殊词必须是单个 token，用户最后的消息和回答开始的位置都要在里面。",
        ),
        bad=(
            "the template belongs to another model, so the policy reads texts that it was never taught",
            "模板是另一个模型的，策略读到的是它从没学过的文本",
        ),
        mend=(
            "Put the model's own tokenizer files beside its weights, or give prompts as plain text.",
            "把模型自己的分词器文件放到权重旁边，或把提示写成纯文本。",
        ),
        options=("model_name_or_path", "dataset_name"),
    ),
    "eos": CheckWords(
        title=("end of answers", "回答的结束"),
        meaning=(
            "What ends an answer, how probable it is where an answer could end, and how many sampled answers ended.",
            "什么会结束回答，在可以结束的地方它有多大概率，采样的回答里有多少结束了。",
        ),
        bad=("answers would all be cut, and ending is never learned", "回答全都会被截断，永远学不会结束"),
        mend=(
            "Give --stop_token_ids or --stop_strings, teach the end with clearppo sft, or raise --response_length.",
            "给出 --stop_token_ids 或 --stop_strings，用 clearppo sft 教它结束，或调大 --response_length。",
        ),
        options=("stop_token_ids", "stop_strings", "response_length", "missing_eos_penalty"),
    ),
    "pad": CheckWords(
        title=("padding token", "填充 token"),
        meaning=(
            "Which token fills up batches. It may be the EOS: masks come from lengths here, never from ids.",
            "用哪个 token 填充。可以就是结束符：这里的掩码来自长度，从不来自 id。",
        ),
        bad=("there is no token to fill up with", "没有可用来填充的 token"),
        mend=(
            "Set pad_token in tokenizer_config.json, for example to the EOS.",
            "在 tokenizer_config.json 里设置 pad_token，例如设成结束符。",
        ),
    ),
    "prompts_length": CheckWords(
        title=("length of prompts", "提示长度"),
        meaning=(
            "How many prompts are too long and left out, and how long they are.",
            "有多少提示太长而被排除，以及它们的长度。",
        ),
        bad=(
            "much of the data is not used, or a prompt does not fit the model",
            "很多数据没有用上，或某条提示超出模型的上下文",
        ),
        mend=("Raise --max_prompt_length, or shorten the prompts.", "调大 --max_prompt_length，或缩短提示。"),
        options=("max_prompt_length", "response_length"),
    ),
    "duplicate_prompts": CheckWords(
        title=("duplicate prompts", "重复的提示"),
        meaning=(
            "The share of prompts that stand in the data more than once.",
            "在数据中出现不止一次的提示所占的比例。",
        ),
        bad=("the run learns a few prompts by heart and pays for many", "训练只是在背少数几条提示，却花了很多条的代价"),
        mend=(
            "Remove the duplicates; several answers to one prompt are asked for with --num_generations.",
            "去掉重复；要对一条提示取多个回答，用 --num_generations。",
        ),
        options=("dataset_name", "num_generations"),
    ),
    "sampler_log_probs": CheckWords(
        title=("sampler = learner", "采样器 = 学习者"),
        meaning=(
            "The log-probabilities that sampling noted, against those of reading the same answers again.",
            "采样时记下的对数概率，与重读同样回答得到的相比。",
        ),
        bad=("the ratio is wrong from the first step on", "比率从第一步起就是错的"),
        mend=("Use --importance_cap 2, or --bf16 false.", "用 --importance_cap 2，或 --bf16 false。"),
        options=("importance_cap", "bf16", "old_log_probs"),
    ),
    "ratio_and_kl": CheckWords(
        title=("ratio 1 and KL 0", "比率为 1、KL 为 0"),
        meaning=(
            "Before the first step the policy is the old policy and the reference: ratio 1, KL 0, within rounding.",
            "第一步之前，策略就是旧策略和参考模型：在舍入误差之内，比率为 1，KL 为 0。",
        ),
        bad=("the run would end with this error before its first step", "训练会在第一步之前以这个错误结束"),
        mend=(
            "Try --bf16 false, or --attn_implementation eager.",
            "试试 --bf16 false，或 --attn_implementation eager。",
        ),
        options=("bf16", "attn_implementation", "dtype"),
    ),
    "padding_invariance": CheckWords(
        title=("padding and micro-batches", "填充与微批"),
        meaning=(
            "The same answers with more padding, and in other micro-batches, must have the same log-probabilities.",
            "同样的回答，加更多填充、换别的微批，对数概率必须相同。",
        ),
        bad=("what is learned depends on which answers stand beside each other", "学到什么取决于哪些回答排在一起"),
        mend=(
            "Try --attn_implementation eager, or another version of the model's code.",
            "试试 --attn_implementation eager，或换一个版本的模型代码。",
        ),
        options=("attn_implementation", "micro_batch_size"),
    ),
    "reward_tokenizer": CheckWords(
        title=("reward model's tokenizer", "奖励模型的分词器"),
        meaning=(
            "Whether the tokenizer beside the reward model is its own: sizes, special tokens, and how well the model "
            "knows the text that it reads.",
            "奖励模型旁边的分词器是不是它自己的：大小、特殊 token，以及模型对读到的文本有多熟悉。",
        ),
        bad=("the reward model reads nonsense, and its scores are noise", "奖励模型读到的是乱码，得分只是噪声"),
        mend=(
            "Put the tokenizer files that the reward model was trained with beside its weights.",
            "把奖励模型训练时用的分词器文件放到它的权重旁边。",
        ),
        options=("reward_model_path",),
    ),
    "reward_finite": CheckWords(
        title=("scores are finite", "得分是有限的数"),
        meaning=("Whether every score is a finite number.", "每个得分是不是有限的数。"),
        bad=("a score that is no number ends the run", "不是数的得分会中断训练"),
        mend=("Mend the source of the score for the answers that are named.", "针对指出的回答修正得分来源。"),
        options=("reward_funcs", "reward_missing"),
    ),
    "reward_spread": CheckWords(
        title=("spread of scores", "得分的离散程度"),
        meaning=(
            "How different the scores of the start model's answers are, within a prompt and between prompts.",
            "起始模型的回答得分相差多大：同一提示之内，以及提示之间。",
        ),
        bad=("scores that are all the same teach nothing", "得分全都一样，什么也教不了"),
        mend=(
            "Call the source on two answers of your own that should differ.",
            "拿两条应有差别的回答自己试一下这个来源。",
        ),
        options=("reward_funcs", "reward_model_path", "num_generations"),
    ),
    "reward_pairs": CheckWords(
        title=("order of held-out pairs", "留出比较对的顺序"),
        meaning=(
            "The share of held-out pairs whose better answer has the higher score.",
            "留出的比较对中，更好的回答得分更高的比例。",
        ),
        bad=("near 0.5 PPO would optimise noise", "接近 0.5 时 PPO 会去优化噪声"),
        mend=(
            "Train the reward model on more or clearer comparisons before PPO.",
            "在 PPO 之前，用更多或更分明的比较训练奖励模型。",
        ),
        options=("reward_model_path",),
    ),
    "reward_length": CheckWords(
        title=("score and length", "得分与长度"),
        meaning=(
            "How far the score goes with length: over answers, and for the same answer cut to a half and doubled.",
            "得分在多大程度上随长度走：在各回答之间，以及同一回答减半和加倍时。",
        ),
        bad=("the policy will learn to write long (or short), not well", "策略会学着写长（或写短），而不是写好"),
        mend=(
            "Take length out of the reward, or add a source that charges for it; --missing_eos_penalty 1.",
            "从奖励中去掉长度的影响，或加一个对长度收费的来源；--missing_eos_penalty 1。",
        ),
        options=("reward_funcs", "reward_weights", "missing_eos_penalty"),
    ),
    "reward_edge_cases": CheckWords(
        title=("odd answers", "边缘回答"),
        meaning=(
            "What an empty answer, a blank one, one token repeated, and the prompt repeated get.",
            "空回答、空白回答、重复一个 token、重复提示，各得多少分。",
        ),
        bad=(
            "the policy will find that such answers pay, or the run ends at the first of them",
            "策略会发现这样的回答划算，或者第一次遇到就中断",
        ),
        mend=(
            "Give such answers a low, finite score in the reward function.",
            "在奖励函数里给这类回答一个低而有限的得分。",
        ),
        options=("reward_funcs", "missing_eos_score"),
    ),
    "reward_functions": CheckWords(
        title=("reward functions", "打分函数"),
        meaning=(
            "Whether the same answer gets the same score twice, how long a call takes, and whether it raises.",
            "同一回答两次得分是否相同，调用要多久，是否抛出异常。",
        ),
        bad=(
            "a function that raises ends the run; one that guesses teaches slowly",
            "抛出异常会中断训练；随机打分则学得慢",
        ),
        mend=(
            "Mend the function, or give it a process with --reward_worker true.",
            "修正函数，或用 --reward_worker true 给它一个进程。",
        ),
        options=("reward_funcs", "reward_worker", "reward_timeout"),
    ),
    "critic_start": CheckWords(
        title=("critic at the start", "评论家的起点"),
        meaning=(
            "The critic's first values against the returns: finite, on their scale, and able to learn.",
            "评论家最初的价值与回报相比：有限、尺度相当、而且能学。",
        ),
        bad=("advantages would carry the critic's errors from the start", "优势从一开始就带着评论家的误差"),
        mend=(
            "Give another --value_model_path or none, scale the scores (--score_scaling), or --critic_warmup_steps 10.",
            "换一个 --value_model_path 或不给，缩放得分（--score_scaling），或 --critic_warmup_steps 10。",
        ),
        options=("value_model_path", "critic", "score_scaling", "critic_warmup_steps"),
    ),
    "kl_against_reward": CheckWords(
        title=("KL against the reward", "KL 与奖励"),
        meaning=(
            "What a usual KL would cost against the spread of the scores.",
            "一般大小的 KL 要付的代价，与得分的离散程度相比。",
        ),
        bad=(
            "far too small: the reward will be hacked; far too large: nothing will be learned",
            "太小：奖励会被钻空子；太大：什么也学不到",
        ),
        mend=(
            "Change --kl_coef, or use --kl_controller adaptive, which steers to --kl_target.",
            "改 --kl_coef，或用会朝 --kl_target 调整的 --kl_controller adaptive。",
        ),
        options=("kl_coef", "kl_controller", "kl_target", "score_scaling"),
    ),
    "memory": CheckWords(
        title=("memory", "内存"),
        meaning=(
            "The planned peak against what the device has; see clearppo plan.",
            "计划的峰值与设备现有的相比；见 clearppo plan。",
        ),
        bad=("the run would end out of memory", "训练会因内存不足而中断"),
        mend=("Take the change that clearppo plan says saves most.", "采用 clearppo plan 指出最省的改动。"),
        options=("micro_batch_size", "use_peft", "gradient_checkpointing", "freeze_layers"),
    ),
    "time": CheckWords(
        title=("time", "时间"),
        meaning=("The planned seconds an iteration and of the whole run.", "计划的每次迭代和整个训练的时间。"),
        bad=("the run takes very long", "训练会非常久"),
        mend=("Take the change that clearppo plan says saves most time.", "采用 clearppo plan 指出最省时间的改动。"),
        options=("total_episodes", "response_length", "num_ppo_epochs"),
    ),
    "disk": CheckWords(
        title=("disk space", "磁盘空间"),
        meaning=("What the run will write against what is free.", "训练要写的与剩余空间相比。"),
        bad=("the run would end when it saves", "训练会在保存时中断"),
        mend=(
            "Make room, use another --output_dir, or keep fewer checkpoints (--save_total_limit).",
            "腾出空间，换一个 --output_dir，或少留检查点（--save_total_limit）。",
        ),
        options=("output_dir", "save_total_limit", "record_limit_mib"),
    ),
    "objective": CheckWords(
        title=("objective", "目标"),
        meaning=("What the options really optimise, as a formula.", "这些选项真正优化的目标，写成公式。"),
        bad=("the options say something else than what was meant", "选项说的与本意不同"),
        mend=(
            "Read the line term by term; clearppo explain OPTION says what each option does.",
            "逐项读这一行；clearppo explain 选项 会说明每个选项的作用。",
        ),
    ),
}
