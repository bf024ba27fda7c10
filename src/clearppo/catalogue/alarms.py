"""What every alarm means, when it rings and what to do; the numbers are said by the alarm itself."""

from clearppo.catalogue.words import AlarmWords

ALARMS = {
    "kl_runaway": AlarmWords(
        title=("KL runs away", "KL 失控"),
        meaning=(
            "The policy has left the reference so far that the KL has eaten a large part of the entropy that answers "
            "had at the start. That far away, a reward model's scores mean little.",
            "策略离参考模型太远：KL 已相当于起始时回答的熵的一大部分。在那么远的地方，奖励模型的得分没什么意义。",
        ),
        causes=(
            ("the KL coefficient is small against the spread of scores", "KL 系数相对得分的离散程度太小"),
            ("the learning rate is too large", "学习率太大"),
            ("the reward has a hole that the policy has found", "策略找到了奖励的漏洞"),
        ),
        rings=(
            "the KL of an answer is above half the entropy that one of its length had in the first iteration (the "
            "whole of it where kl_coef is 0), above 5 nats, and above twice kl_target",
            "一条回答的 KL 高于第一次迭代中同样长度的回答的熵的一半（kl_coef 为 0 时为全部），高于 5 nat，并高于 "
            "kl_target 的两倍",
        ),
        advice=(
            "Raise --kl_coef or lower --learning_rate, and read some answers: so far from its reference a policy "
            "mostly pleases the reward with what nobody wants.",
            "调大 --kl_coef 或调小 --learning_rate，并读几条回答：离参考模型这么远的策略，多半是用没人想要的东西讨"
            "好奖励。",
        ),
        metrics=("objective/kl",),
        options=("kl_coef", "kl_controller", "kl_target", "learning_rate"),
    ),
    "entropy_collapse": AlarmWords(
        title=("entropy collapses", "熵坍缩"),
        meaning=(
            "The policy has become nearly certain of every token: its answers are all alike, and nothing new is tried.",
            "策略对每个 token 几乎都确定无疑：回答千篇一律，不再尝试新的东西。",
        ),
        causes=(
            ("the learning rate is too large, or the KL coefficient too small", "学习率太大，或 KL 系数太小"),
            ("one kind of answer gets almost all of the reward", "有一种回答几乎拿走了全部奖励"),
        ),
        rings=(
            "the next token's entropy is below 0.4 x that of the first iteration; not where that is below 0.05 nats",
            "下一个 token 的熵低于第一次迭代的 0.4 倍；第一次低于 0.05 nat 时不响",
        ),
        advice=(
            "Lower --learning_rate or --num_ppo_epochs, raise --kl_coef, or try --entropy_coef 0.01.",
            "调小 --learning_rate 或 --num_ppo_epochs，调大 --kl_coef，或试试 --entropy_coef 0.01。",
        ),
        metrics=("policy/entropy_avg",),
        options=("entropy_coef", "learning_rate", "kl_coef"),
    ),
    "length_growth": AlarmWords(
        title=("answers grow", "回答变长"),
        meaning=(
            "Answers have become much longer than at the start. Often the score simply likes length.",
            "回答比开始时长了很多。往往只是得分偏爱长度。",
        ),
        causes=(
            ("the reward goes with length", "奖励随长度走"),
            ("nothing is lost by never coming to an end", "说个不停没有任何代价"),
        ),
        rings=(
            "the median of 5 iterations is above 1.5 x the start, and 10 tokens above it",
            "5 次迭代的中位数高于起始值的 1.5 倍，并多出 10 个 token",
        ),
        advice=(
            "See in clearppo view whether longer answers are better or only score higher; clearppo doctor "
            "measures how far the reward goes with length. Raise --kl_coef, or set --missing_eos_penalty 1.",
            "在 clearppo view 里看更长的回答是真的更好，还是只是得分更高；clearppo doctor 会测奖励在多大程度上随长"
            "度走。调大 --kl_coef，或设 --missing_eos_penalty 1。",
        ),
        metrics=("completions/mean_length",),
        options=("missing_eos_penalty", "response_length", "kl_coef"),
    ),
    "length_shrink": AlarmWords(
        title=("answers shrink", "回答变短"),
        meaning=(
            "Answers have become much shorter than at the start, perhaps to nothing but an end.",
            "回答比开始时短了很多，甚至只剩结束符。",
        ),
        causes=(
            ("every token costs KL, and the score does not pay for it", "每个 token 都要付 KL，而得分不足以补偿"),
            ("empty or short answers score well", "空的或很短的回答得分不低"),
        ),
        rings=(
            "the median of 5 iterations is below half the start, and 4 tokens below it",
            "5 次迭代的中位数低于起始值的一半，并少了 4 个 token",
        ),
        advice=(
            "See in clearppo view whether short answers are better or only score higher; clearppo doctor measures "
            "what an empty one gets. Raise --kl_coef.",
            "在 clearppo view 里看短回答是真的更好，还是只是得分更高；clearppo doctor 会测空回答得多少分。调大 "
            "--kl_coef。",
        ),
        metrics=("completions/mean_length",),
        options=("kl_coef", "reward_funcs"),
    ),
    "repetition": AlarmWords(
        title=("answers repeat themselves", "回答重复"),
        meaning=(
            "Answers say the same words again and again, far more than at the start.",
            "回答反复说同样的话，远多于开始时。",
        ),
        causes=(
            ("the reward counts good words, however often", "奖励数好词的个数，说几遍算几遍"),
            ("the policy has collapsed onto a phrase", "策略坍缩到一句话上"),
        ),
        rings=(
            "the share of repeated 4-grams is above 3 x that of the first iteration, and 0.15 above it",
            "重复的 4-gram 的比例高于起始值的 3 倍，并高出 0.15",
        ),
        advice=(
            "Raise --kl_coef, or add a reward that does not like repetition; clearppo doctor measures what a "
            "repeated token gets from this one.",
            "调大 --kl_coef，或加一个不喜欢重复的奖励；clearppo doctor 会测重复一个 token 能从现在的奖励得多少分。",
        ),
        metrics=("completions/repetition",),
        options=("kl_coef", "reward_funcs"),
    ),
    "held_out_apart": AlarmWords(
        title=("held-out score falls", "留出的得分下降"),
        meaning=(
            "The score that is optimised rises, while one that is not falls from its best: the reward is being gamed.",
            "被优化的得分在升，而没有被优化的从最好处下降：策略在钻奖励的空子。",
        ),
        causes=(
            ("the reward model is wrong about answers that it has never seen", "奖励模型对从没见过的回答判断错误"),
            ("the run goes on past its best point", "训练过了最佳点还在继续"),
        ),
        rings=(
            "in 2 evaluations in a row a held-out measure's win rate against the start model is below its best by "
            "more than 2 standard errors of the difference (at least 0.1), and the optimised score is not below "
            "what it was then. The optimised score on held-out prompts is such a measure too, against that of "
            "training",
            "连续 2 次评估中，某项留出指标对起始模型的胜率比它的最好值低了 2 个标准误（差值的标准误，至少 0.1）以"
            "上，而被优化的得分不低于当时。被优化的得分在留出提示上也是这样一项指标，与训练中的相比",
        ),
        advice=(
            "The policy pleases its scorer and nobody else. Take an earlier checkpoint (--metric_for_best_model), "
            "raise --kl_coef, or train a reward model on more and other data.",
            "策略只讨好给它打分的，不讨好别人。取更早的检查点（--metric_for_best_model），调大 --kl_coef，或用更多"
            "、别样的数据训练奖励模型。",
        ),
        metrics=("eval/win_rate/*", "eval/win_rate", "objective/raw_scores"),
        options=("eval_reward_funcs", "metric_for_best_model", "load_best_model_at_end", "kl_coef"),
    ),
    "critic_useless": AlarmWords(
        title=("critic worse than a constant", "评论家不如常数"),
        meaning=(
            "The critic's values explain less of the returns than their mean would, iteration after iteration: "
            "advantages carry its errors.",
            "评论家的价值对回报的解释一直不如报一个均值：优势里带着它的误差。",
        ),
        causes=(
            ("it learns too slowly, or is held by --cliprange_value", "它学得太慢，或被 --cliprange_value 拖住"),
            ("its network is broken, or starts from another scale of scores", "它的网络坏了，或起点的得分尺度不同"),
        ),
        rings=(
            "the median explained variance of 8 iterations is below -0.3 and below 0.6 x that of the 8 before; so "
            "not in the first 15, and not while it gets better fast",
            "8 次迭代的可解释方差的中位数低于 -0.3，并低于之前 8 次的 0.6 倍；所以前 15 次不响，正在快速变好时也不响",
        ),
        advice=(
            "Let the critic learn faster (--critic_learning_rate, --vf_coef) or first (--critic_warmup_steps 10), "
            "start it from the reward model (--critic separate --value_model_path DIR), or do without "
            "(--advantage_estimator rloo --num_generations 4).",
            "让评论家学得更快（--critic_learning_rate、--vf_coef）或先学（--critic_warmup_steps 10），从奖励模型开"
            "始（--critic separate --value_model_path DIR），或不用评论家（--advantage_estimator rloo "
            "--num_generations 4）。",
        ),
        metrics=("critic/vf_explained_var",),
        options=("critic_learning_rate", "cliprange_value", "critic_warmup_steps", "advantage_estimator"),
    ),
    "clipping_saturated": AlarmWords(
        title=("clipping is saturated", "裁剪饱和"),
        meaning=(
            "A large share of tokens is stopped by clipping: steps are so large that much of every update is thrown "
            "away.",
            "很大比例的 token 被裁剪拦下：步子大到每次更新有很多白费。",
        ),
        causes=(
            ("the learning rate is too large", "学习率太大"),
            ("too many epochs or mini-batches on one batch", "一批数据上的轮数或小批数太多"),
        ),
        rings=(
            "more than 0.3 of the tokens are clipped; at once where an update moves the policy by more than 10 "
            "nats a token",
            "被裁剪的 token 的比例超过 0.3；一次更新使策略每 token 移动超过 10 nat 时立即报",
        ),
        advice=(
            "Lower --learning_rate or --num_ppo_epochs, or end an update early with --early_stop_kl 0.05.",
            "调小 --learning_rate 或 --num_ppo_epochs，或用 --early_stop_kl 0.05 提前结束更新。",
        ),
        metrics=("policy/clipfrac_avg", "policy/approxkl_avg"),
        options=("learning_rate", "num_ppo_epochs", "num_mini_batches", "early_stop_kl"),
    ),
    "sampler_mismatch": AlarmWords(
        title=("sampler and learner disagree", "采样器与学习者不一致"),
        meaning=(
            "The log-probabilities of sampling and of learning differ by more than rounding: the ratio is wrong before "
            "the first step.",
            "采样与学习的对数概率之差超过舍入误差：第一步之前比率就错了。",
        ),
        causes=(
            ("half precision, or another engine samples", "半精度，或由另一个引擎采样"),
            ("--top_k or --top_p cut the distribution", "--top_k 或 --top_p 截断了分布"),
        ),
        rings=(
            "sampler and learner disagree by more than 3 x the start, but at least 0.1 and at most 0.3 nats a token",
            "采样器与学习者之差高于起始值的 3 倍，但界限至少 0.1、至多 0.3 nat / token",
        ),
        advice=(
            "Try --bf16 false: if it goes away it was rounding, and --importance_cap 2 corrects for it. Else what "
            "samples has other weights than what learns.",
            "试试 --bf16 false：如果消失了，那就是舍入，用 --importance_cap 2 校正。否则采样用的权重与学习的不同。",
        ),
        metrics=("sampling/log_prob_difference",),
        options=("importance_cap", "bf16", "top_k", "top_p", "old_log_probs"),
    ),
    "gradient_spike": AlarmWords(
        title=("gradient spike", "梯度尖峰"),
        meaning=(
            "The gradient is many times longer than usual in this run: one batch pulls the weights hard.",
            "梯度比这次训练的平常水平长很多倍：某一批在猛拉权重。",
        ),
        causes=(
            ("an answer with an extreme score", "某条回答得分极端"),
            ("the policy has moved far from what it sampled", "策略离它采样时已很远"),
        ),
        rings=(
            "the norm is above 5 x the median of up to 20 iterations before, and 10 robust deviations above it",
            "范数高于之前至多 20 次迭代的中位数的 5 倍，并高出 10 个稳健标准差",
        ),
        advice=(
            "--max_grad_norm bounds such a step. If it comes again, lower --learning_rate, and see in clearppo "
            "view what was odd about the answers of this iteration.",
            "--max_grad_norm 会限制这样的一步。如果再次出现，调小 --learning_rate，并在 clearppo view 里看这次迭代"
            "的回答有什么古怪。",
        ),
        metrics=("policy/grad_norm",),
        options=("max_grad_norm", "score_clip", "learning_rate"),
    ),
    "reward_constant": AlarmWords(
        title=("a source says the same of every answer", "某个来源对每条回答都一样"),
        meaning=(
            "All answers of a batch got the same from this source, so it teaches nothing.",
            "一批里的所有回答从这个来源得到的都一样，所以它什么也教不了。",
        ),
        causes=(
            ("the function returns a constant, or reads the wrong column", "函数返回常数，或读错了列"),
            ("the task is too hard or too easy: nothing, or everything, is right", "任务太难或太易：全错或全对"),
        ),
        rings=(
            "a source gives 8 or more answers of a batch the same score; where that is 0 or 1, in as many "
            "iterations in a row as make 128 answers, 3 at least",
            "某个来源给一批里 8 条以上的回答同样的得分；如果这个得分是 0 或 1，则要连续若干次迭代，凑够 128 条回答"
            "，至少 3 次",
        ),
        advice=(
            "See what the source is given and what it returns: clearppo doctor tries it. Where every answer is "
            "right, or every one wrong, take harder or easier prompts.",
            "看这个来源拿到什么、返回什么：clearppo doctor 会试它。如果每条回答都对，或都错，就换更难或更易的提示。",
        ),
        metrics=("rewards/*/std",),
        options=("reward_funcs", "reward_model_path", "num_generations"),
    ),
    "reward_jump": AlarmWords(
        title=("a source jumps", "某个来源跳变"),
        meaning=(
            "The mean of a source has jumped far out of its own course: something behind it may have changed.",
            "某个来源的均值突然远离自己的走势：它背后可能有东西变了。",
        ),
        causes=(
            ("the server of the reward loads another model", "奖励服务器换了模型"),
            ("the policy has found a hole in the reward", "策略找到了奖励的漏洞"),
        ),
        rings=(
            "the mean of a source was for 2 iterations on one side of the 3 before, further away than 1.5 "
            "standard deviations of an answer, 6 standard errors of a batch, and 6 robust deviations of its own "
            "steps",
            "某个来源的均值连续 2 次在之前 3 次的同一侧，距离超过一条回答的 1.5 个标准差、一批的 6 个标准误，以及"
            "它自己步幅的 6 个稳健标准差",
        ),
        advice=(
            "See whether the source has become another: a server with a new model, a function that gives a "
            "default where it fails. If so, go back to a checkpoint from before.",
            "看这个来源是不是变了：服务器换了模型，或函数失败时给默认值。如果是，就回到之前的检查点。",
        ),
        metrics=("rewards/*/mean",),
        options=("reward_urls", "reward_funcs", "reward_model_path"),
    ),
    "never_ending": AlarmWords(
        title=("answers never end", "回答不结束"),
        meaning=(
            "Nearly every answer is cut at --response_length: scorers judge fragments, and ending is never learned.",
            "几乎每条回答都在 --response_length 处被截断：打分的是片段，也永远学不会结束。",
        ),
        causes=(
            ("the model was never taught to end", "模型从没学过结束"),
            ("the template's end of a turn is no stop token here", "模板的轮次结束符在这里不是结束符"),
            ("--response_length is shorter than an answer needs", "--response_length 短于一条回答所需"),
        ),
        rings=(
            "no answer has ended for 6000 tokens and 64 answers; or in the median of 5 iterations the share that "
            "is cut is at least 0.9, and 0.3 above its start. Not with fixed_length",
            "6000 个 token、64 条回答里没有一条结束；或 5 次迭代的中位数里，被截断的比例至少 0.9，并比起始值高出 "
            "0.3。用 fixed_length 时不响",
        ),
        advice=(
            "See with clearppo doctor whether the stop token can come at all. Raise --response_length, set "
            "--missing_eos_penalty 1, or, where answers are meant to be cut, --fixed_length true.",
            "用 clearppo doctor 看结束符到底会不会出现。调大 --response_length，设 --missing_eos_penalty 1；如果回"
            "答本来就该截断，用 --fixed_length true。",
        ),
        metrics=("completions/clipped_ratio",),
        options=("stop_token_ids", "stop_strings", "response_length", "missing_eos_penalty"),
    ),
}
