"""The options of the other commands in Chinese, where PPO has none of that name or says something else of it."""

STEPS = {
    "sft.model_name_or_path": "训练的起点，一个语言模型：目录、hub 上的名字，或内置的 smollm2-135m-instruct。",
    "prefs.model_name_or_path": "写回答的语言模型：目录、hub 上的名字，或内置的 smollm2-135m-instruct。",
    "rlhf.model_name_or_path": "一切的起点，一个语言模型：目录、hub 上的名字，或内置的 smollm2-135m-instruct。",
    "rlhf.device": "所有步骤在哪里计算：auto 依次取 CUDA、Apple 的 MPS、CPU，先有哪个用哪个。",
    "sft.dataset_name": (
        "示范：.jsonl、.json、.csv 或 .parquet 文件，或 hub 数据集。每行有 `prompt` 和 `completion`，或对话 "
        "`messages`，或 `text`。"
    ),
    "reward.dataset_name": (
        "比较：文件或 hub 数据集。每行有 `chosen` 和 `rejected`（如果它们不以提示开头，还要 `prompt`），或 "
        "`prompt` 和带 `scores`、`ranks` 或 `choice` 的 `completions`。"
    ),
    "sft.dataset_train_split": "从 hub 数据集的哪个划分学习；文件没有。",
    "prefs.temperature": "抽取 token 之前除 logits。低于 1 选得更果断，高于 1 更多样。",
    "prefs.top_k": "只从最可能的这么多个 token 里抽；0 从全部里抽。",
    "prefs.top_p": "只从合起来达到这个概率的最可能的 token 里抽；1 从全部里抽。",
    "prefs.reward_model_path": "训练好的奖励模型：目录或 hub 上的名字，一个标签。",
    "rlhf.reward_model_path": "训练好的奖励模型。给了它就没有 prefs 和 reward 两步。",
    "sft.learning_rate": "步长。常用：训练全部权重 1e-5 到 5e-5，LoRA 1e-4 到 2e-4。",
    "reward.learning_rate": "步长。常用：训练全部权重 3e-6 到 5e-5，LoRA 1e-4。",
    "sft.adam_epsilon": "加在 Adam 的分母上：梯度更小的参数走得更小。",
    "sft.eval_steps": "每隔这么多步在留出的行上测一次。none：每轮之后测。结束时总会测。",
    "sft.eval_dataset_name": (
        "用来评估的留出的行：同样格式的文件或 hub 数据集。none：用 dataset_test_split，或留出 eval_fraction 的行。"
    ),
    "sft.dataset_test_split": "用 hub 数据集的哪个划分评估；文件没有。",
    "sft.eval_fraction": (
        "没有给 eval_dataset_name 和 dataset_test_split 时，留出多少行来评估；同一提示不会两边都有。0：不评估。"
    ),
    "sft.output_dir": "训练好的模型、metrics.jsonl 和完整配置的目录。transformers 能加载。",
    "rlhf.output_dir": "流水线的目录，每步一个子目录：sft、comparisons.jsonl、reward、ppo。",
    "rlhf.overwrite_output_dir": "别的设置做出来的重新做。不设则是错误；同样的设置做出来的总会保留并跳过。",
    "sft.batch_size": "每步的行数：示范，或提示连同它的几条被比较的回答。",
    "sft.micro_batch_size": "一次最多这么多条文本通过模型。改变内存和速度，不改变结果。",
    "prefs.micro_batch_size": "一次最多这么多条文本通过奖励模型，或发给裁判。",
    "sft.seed": "一切随机的种子：留出哪些、顺序、新的权重。",
    "prefs.seed": "一切随机的种子：哪些提示，以及采样。",
    "rlhf.seed": "每一步的种子。",
    "sft.logging_steps": "每隔这么多步打印一行指标。",
    "sft.save_steps": (
        "每隔这么多步写一个检查点，被中断时也写：接着训练所需的一切，约为参与学习的权重的三倍。0：不写。"
    ),
    "max_length": "文本最长多少 token，提示和回答合计。更长的会排除并计数，绝不截断。none：放不进模型的文本就是错误。",
    "completion_only_loss": "学写回答，或助手的消息，不学它前面的提示。纯文本的行整行都学。",
    "num_train_epochs": "每行学几遍；0.5 是一遍的前一半。",
    "max_steps": "走这么多优化步就停，不管 num_train_epochs 怎么说。none：不这样停。",
    "num_completions": (
        "每条提示写几条回答。常用：4 到 9，给人看时 2 到 4。1 用于比较模型的人：clearppo label 能读几个文件。"
    ),
    "labeller": (
        "Python 函数 f(prompts, completions, **columns) -> 每条回答一个数，越高越好，写作 file.py:name 或 "
        "package.module:name。"
    ),
    "rlhf.labeller": "自己做比较：用微调后的模型对提示采样回答，由这个 Python 函数 file.py:name 来比较。",
    "judge_url": '一个服务器，接收 POST {"prompts": [...], "completions": [...]}，回答 {"scores": [...]}。',
    "rlhf.judge_url": "同上，由网址背后的裁判来比较（见 clearppo prefs）。",
    "for_human": "只写回答、不作判断，由人用 clearppo label 来比较。",
    "min_gap": "得分之差不超过它的两条回答算平局，不写成对。",
    "max_prompts": "最多用这么多条提示，取按种子打乱后的前几条。none：全部，按原来的顺序。",
    "output_file": "要写的比较文件，.jsonl，clearppo reward 能读。",
    "overwrite_output_file": "替换已有的 output_file。不设则是错误。",
    "judgement_template": (
        "奖励模型读什么：一段文本，含 {conversation}（对话模板套在提示和回答上），或 {prompt} 和 {answer}，以请求判"
        "断的话结尾，得分就在其后读出。与模型一起保存，它打分时总是用它。none：一个通用的。"
    ),
    "rm_loss": (
        "pairwise：得分之差的 -log sigmoid，每对权重相同。k-wise：一条提示的所有回答对取平均，每条提示权重相同（"
        "InstructGPT）。best-of-n：对各回答做 softmax，取被选中的（lm-human-preferences）。all-token：在一对回答不"
        "同的每个 token 上都算 pairwise（DeepSpeed-Chat）。"
    ),
    "head_init_std": (
        "新的打分层权重的标准差；继续训练的奖励模型用它自己的。越大，一步移动得分越多。none：1 / sqrt(hidden size "
        "+ 1)，OpenAI 的做法。"
    ),
    "center_coef": "(得分 + 另一得分) 平方的均值的权重，使得分保持在 0 附近。常用：0 或 0.01。",
    "score_normalisation": (
        "训练之后，把参考样本上的得分移到均值 0（mean），或再缩到标准差 1（mean-std），写进模型自己的权重，谁加载都"
        "给出这样的得分。"
    ),
    "reference_dataset_name": (
        "参考样本：带 completion 的提示的文件或 hub 数据集，例如示范。none：训练用的比较里的所有回答。"
    ),
    "clear_gap": "报告里，标签相差多于它的一对算差距明显。none：多于留出的对的中位数。",
    "demonstrations": "sft 这一步模仿什么，clearppo sft 的任何格式。none：没有这一步，model_name_or_path 已经微调过。",
    "comparisons": (
        "reward 这一步从什么学习，clearppo reward 的任何格式。none：由 prefs 这一步来做，或已给出奖励模型或函数。"
    ),
    "prompts": "ppo 这一步（以及 prefs 这一步，如果有）要回答的：提示。",
}
