"""The options of `clearppo ppo` in Chinese; other commands that say the same share them."""

PPO = {
    "model_name_or_path": (
        "要训练的语言模型：目录、hub 上的名字，或内置的 smollm2-135m-instruct。它的冻结副本就是计算 KL 的参考模型。"
    ),
    "device": "在哪里计算：auto 依次取 CUDA、Apple 的 MPS、CPU，先有哪个用哪个。",
    "dtype": "权重的数值类型。float32 最稳；bfloat16 内存减半，但小的更新会被舍掉；float64 用于在极小的模型上做验证。",
    "bf16": "权重是 float32，用 bfloat16 计算（autocast）：硬件支持时更快，约三位有效数字。auto：硬件支持就用。",
    "attn_implementation": (
        "注意力内核，用 transformers 的名字：eager、sdpa、flash_attention_2（要另外装包）。none 让 transformers 选。"
    ),
    "trust_remote_code": "运行模型文件自带的 Python 代码。它能在你的机器上做任何事：只用于你信任的模型。",
    "use_peft": (
        "只训练小的 LoRA 适配器（peft），权重冻结。省下优化器的大部分内存，参考模型也不占地方：就是关掉适配器的同一"
        "份权重。"
    ),
    "lora_r": "LoRA 矩阵的秩：适配器能学多少。常用：8 到 64。",
    "lora_alpha": "LoRA 更新的尺度，实际乘的是 lora_alpha / lora_r。常用：lora_r 的一到两倍。",
    "lora_target_modules": "哪些层有适配器：all-linear，或 q_proj,v_proj 这样模型代码里的名字。",
    "gradient_checkpointing": "反向传播时重算激活值而不保存：内存少得多，时间多约三分之一。不改变结果。",
    "critic": (
        "评论家在哪里。shared：在策略最后的隐藏状态上加一层线性层，便宜，是文章的做法。separate：自己的网络，内存加"
        "倍，两个损失互不干扰。"
    ),
    "freeze_layers": (
        "最低的这么多层和嵌入层不学；单独的评论家也一样。它们对一条回答的计算只做一次并保留，参考模型共用：时间和内"
        "存都少，模型能变的也少。0：都学。常用：三分之二。"
    ),
    "value_model_path": (
        "单独的评论家从哪个模型开始：目录或 hub 上的名字，常是奖励模型的。none：从策略自己的模型开始。"
    ),
    "dataset_name": (
        "提示：.jsonl、.json、.csv 或 .parquet 文件，或 hub 数据集。每行有 `prompt`，文本或对话消息；其余各列会交给"
        "打分函数。"
    ),
    "dataset_config": "hub 数据集的配置（子集）；文件没有。",
    "dataset_train_split": "从 hub 数据集的哪个划分取提示；文件没有。",
    "max_prompt_length": (
        "提示最长多少 token，含对话模板。更长的会排除并计数，绝不截断。none：放不进模型的提示就是错误。"
    ),
    "response_length": (
        "回答最长多少 token。遇到文本结束符或停止标志会更早结束。时间和内存随它增长。常用：20 到 1000。"
    ),
    "temperature": (
        "除 logits，采样和损失里的每个对数概率都是：训练的就是这个温度下的策略。低于 1 选得更果断，高于 1 更多样。"
    ),
    "top_k": (
        "只从最可能的这么多个 token 里抽；0 从全部里抽。截断会让样本偏离策略：PPO 的对数概率是整个词表上的。训练时"
        "请保持 0。"
    ),
    "top_p": "只从合起来达到这个概率的最可能的 token 里抽；1 从全部里抽。和 top_k 一样会偏离策略。",
    "old_log_probs": (
        "旧的对数概率用谁的。learner：学习者把回答再读一遍。sampler：采样时的，不管有没有舍入，省去那一遍。auto：采"
        "样器的与学习者的相等（float32），或一次更新只有一步、反正看到的就是旧策略时用采样器的，否则用学习者的。"
    ),
    "num_generations": (
        "一批里每条提示有几条回答，这一批就有 batch_size / num_generations 条提示。RLOO 和 GRPO 比较同一提示的回答，"
        "需要 2 条以上。常用：有评论家时 1，没有时 4 到 16。"
    ),
    "fixed_length": (
        "每条回答恰好 response_length 个 token，文本结束符不结束任何东西（lm-human-preferences）。全部 token 都参与"
        "学习。"
    ),
    "truncate_token": (
        "打分者只看到回答的开头，到第一个这样的 token 为止，含它（一个能编成单个 token 的文本，如 . 或换行）。策略"
        "仍从全部 token 学习。"
    ),
    "truncate_after": (
        "从回答的第几个 token 起找 truncate_token；在那之后没有它，就算没有结束。lm-human-preferences：24 个里的第 "
        "16 个。"
    ),
    "stop_token_ids": "除分词器的文本结束符外，还能结束回答的 token id。停止 token 属于回答，得分就落在它上面。",
    "stop_strings": (
        '除文本结束符外，还能结束回答的文本。有换行和逗号时写成 YAML：--stop_strings \'["\\n", "User:"]\'。'
    ),
    "generation_batch_size": "一次最多写这么多条回答。它限制采样的内存。none：整批一起，最快。",
    "reward_funcs": (
        "Python 函数 f(prompts, completions, **columns) -> 每条回答一个数，写作 file.py:name 或 package.module:name。"
        "多个：重复这个选项，或用逗号隔开。"
    ),
    "reward_worker": (
        "每个打分函数在自己的进程里调用：卡住或崩溃的不会单凭自己结束训练。函数要能导入，提示的各列要能写成 JSON。"
    ),
    "reward_timeout": (
        "打分函数处理一批最多用多少秒。超过就结束它的进程，把这批交给新进程，只一次；再超过就停止训练，并指出是哪些"
        "行。none：多久都行。"
    ),
    "reward_urls": (
        '给分的服务器，如 clearppo serve-reward：向每个发送 POST {"prompts": [...], "completions": [...], 以及'
        '其余各列}，它回答 {"scores": [...]}。'
    ),
    "reward_url_format": (
        'openrlhf：为 OpenRLHF 写的服务器，接收 {"query", "prompts", "labels"}（labels：label 列），回答 '
        '{"rewards": [...]}。'
    ),
    "reward_batch_size": "发给 reward_urls 的服务器的一个请求里有几条回答。",
    "reward_concurrency": "对 reward_urls 的一个服务器同时有几个请求。",
    "reward_request_timeout": "服务器沉默多少秒后，这个请求算失败并重发。",
    "reward_patience": (
        "请求失败（连不上、没有回答、HTTP 429、503 之类）后重发的总秒数，间隔越来越长，或按服务器说的时间。之后训练"
        "停止。"
    ),
    "reward_auth_env": (
        "一个环境变量的名字，它的值作为 Authorization: Bearer VALUE 发给 reward_urls。值不会写到任何地方。"
    ),
    "reward_missing": (
        "没有得分的回答：服务器给 null，或所有能打分的函数都给 None。stop：训练结束并指出它。drop：不参与更新，计入"
        " rewards/dropped；用 RLOO 和 GRPO 时，同一提示的其他回答也一样。"
    ),
    "reward_model_path": (
        "训练好的奖励模型：目录或 hub 上的名字，能用 AutoModelForSequenceClassification 以一个标签加载。它用自己的"
        "分词器读文本。"
    ),
    "share_trunk": (
        "如果奖励模型是 clearppo reward 用 LoRA 从策略的同一份起始权重训练的，就不为它另存权重：它的适配器和头加在"
        "策略的主干上。true：做不到就是错误。auto：能就这样。不改变任何得分。"
    ),
    "reward_weights": "每个来源一个系数：先是各函数，再是各服务器，最后是奖励模型，各按其顺序。none：都是 1。",
    "missing_eos_penalty": (
        "从没有结束的回答的得分里扣掉的数，以得分为单位。教策略在 response_length 之内结束。常用：1。"
    ),
    "missing_eos_score": (
        "没有结束的回答的得分，不管各来源怎么说（lm-human-preferences：-1）。missing_eos_penalty 则是扣分。"
    ),
    "score_scaling": (
        "裁剪之前把得分放到同一尺度：running-std 除以到目前为止所有得分的标准差，running 还减去均值（PPO-max），"
        "reference 用起始模型的回答的均值和标准差，只测一次。none：保持原样。"
    ),
    "score_clip": "缩放之后，超出 -score_clip .. score_clip 的得分裁到界限上。DeepSpeed-Chat：5。",
    "whiten_rewards": (
        "把每批各 token 的奖励缩放到方差 1，保留均值。得分和 KL 惩罚会逐批一起变尺度，kl_coef 就没有固定的含义了。"
    ),
    "kl_coef": (
        "每 nat 的 KL 扣多少分，从每个 token 的奖励里扣。太小：策略漂向任何能骗过奖励的地方。太大：停在原地。常用："
        "0.01 到 0.2；0 表示不用。"
    ),
    "kl_estimator": (
        "怎样量一个 token 的 KL。k1：对数比，文章的做法。k2：它平方的一半，不为负，有偏。k3：不为负，无偏。full：整"
        "个词表上的，精确，内存更多。放在奖励里，只有 k1 有 KL 的梯度（docs/math.md）：除非要对比，请保持它。"
    ),
    "kl_loss_coef": "损失里一项 KL 的权重，与奖励里的惩罚并用或取代它（GRPO：0.04 或 0.001）。0：没有。",
    "kl_loss_estimator": (
        "怎样量损失里一个 token 的 KL。k2 在新鲜样本上梯度正确；k3 是 GRPO 的；full 精确，在整个词表上，每步多一次"
        "参考模型的前向。"
    ),
    "kl_controller": (
        "fixed 保持 kl_coef 不变。adaptive 在一条回答的 KL 高于 kl_target 时调大它，低于时调小（Ziegler 等，2019）。"
    ),
    "kl_target": "adaptive 要达到的与参考模型的 KL，每条回答多少 nat。常用：3 到 10。",
    "kl_horizon": "adaptive 有多慢，以回合计：每次迭代系数最多变 20 % x batch_size / kl_horizon。",
    "num_ppo_epochs": "每批回答学几遍，之后再采样新的。常用：1 到 4。",
    "num_mini_batches": "每轮几个优化步：把一批分成这么多等份。它必须整除 batch_size。",
    "advantage_estimator": (
        "一条回答的各 token 按什么记功。gae：评论家的估计，正宗的 PPO。不用评论家的：rloo，它的奖励减去同一提示其他"
        "回答的均值；grpo，它的奖励离同一提示的均值有几个标准差；reinforce++，之后的奖励之和，在整批上白化。"
    ),
    "gamma": "每个 token 的折扣。1：奖励不论多远都一样算，适合长度有限的回答。",
    "lam": (
        "GAE 的 lambda。1 相信实际得到的奖励（无偏、噪声大；文章的做法），0 相信评论家的下一个价值。常用：0.95 到 1。"
    ),
    "critic_lam": "评论家的目标用另一个 lambda（VAPO 的解耦 GAE：这里 1，策略 0.95）。none：都用 lam。",
    "cliprange": (
        "一个 token 的新旧概率比一旦离开 1 - cliprange .. 1 + cliprange，就不再推动更新。none：不裁剪，即文章的 (7)。"
    ),
    "cliprange_high": (
        "上侧另用一个界限 1 + cliprange_high：大于 cliprange 时，罕见的好 token 能长得更快。none：同 cliprange。常"
        "用：0.28。"
    ),
    "dual_clip": "优势为负的 token 的比率上限，普通裁剪对它没有限制（Ye 等，2020）。常用：3。",
    "importance_cap": (
        "采样与学习算法不同时（bf16、别的引擎），每个 token 的损失乘 p_old / p_sampler，最多这么大（截断重要性权重）。"
        "常用：2。none：每个 token 权重相同。"
    ),
    "importance_level": (
        "重要性权重针对什么。token：单个 token，略有偏差，噪声小。sequence：整条回答，各 token 之积，没有偏差，但长回答"
        "很快就到上限。"
    ),
    "cliprange_value": "评论家的损失里，价值离旧价值最多算这么远，以得分为单位。none：普通的平方误差，(8)。",
    "vf_coef": "评论家的损失相对演员的权重，即公式 (9) 的 0.1。",
    "critic_warmup_steps": "最初这么多次迭代里只有评论家学习，策略等它的价值有意义再学（PPO-max）。常用：0 到 20。",
    "entropy_coef": "每个 token 每 nat 的熵加多少分，防止过早收窄。常用：0 到 0.01；太大会胡言乱语。",
    "whiten_advantages": "把每批的优势平移并缩放到均值 0、方差 1，步长就不取决于得分的尺度。",
    "unbiased_whitening": "白化用除以 n - 1 的方差（TRL），而不是除以 n（lm-human-preferences）。",
    "early_stop_kl": (
        "一个小批上新旧策略的近似 KL 的均值超过它时，结束这批的更新，以每 token 的 nat 计：防止步子太大的刹车。常用："
        "0.02 到 0.1。"
    ),
    "ptx_coef": "语言模型损失相对 PPO 损失的权重。InstructGPT 和 DeepSpeed-Chat：27.8。0：没有。",
    "ptx_dataset_name": "它用的文本：示范或纯文本的文件或 hub 数据集，clearppo sft 能读的任何格式。",
    "ptx_batch_ratio": "小批里每条回答配几条文本。InstructGPT：8。",
    "ptx_max_length": "文本最长多少 token。更长的会排除并计数，绝不截断。",
    "ptx_reduction": "sum：两个损失的梯度相加（InstructGPT）。mean：取其一半，DeepSpeed-Chat 的梯度累积就是这样。",
    "learning_rate": "策略的步长。常用：训练全部权重 1e-6 到 5e-6，LoRA 或极小的模型 1e-5 到 1e-4。",
    "adam_beta1": "Adam 对平均梯度的记忆；0.9 约为 10 步。",
    "adam_beta2": "Adam 对梯度平方均值的记忆；0.999 约为 1000 步，0.95 约为 20 步。",
    "adam_epsilon": "加在 Adam 的分母上：梯度更小的参数走得更小。PPO 惯用 1e-5，PyTorch 是 1e-8。",
    "adam_style": (
        "adam_epsilon 放在哪里。torch：与校正过偏差的标准差相加。tf：与未校正的相加，TensorFlow 1 的做法，梯度小的"
        "参数最初的步子小得多（lm-human-preferences）。"
    ),
    "weight_decay": "AdamW 每步把权重拉向 0 的力度，是学习率的一个比例。常用：0。",
    "lr_scheduler_type": (
        "预热之后学习率怎样走：linear 或 cosine 降到 min_lr_ratio，或按步数的平方根倒数，或 constant 不变。"
    ),
    "min_lr_ratio": "学习率不低于 learning_rate 的这个比例。InstructGPT 的奖励模型：0.1。",
    "warmup_ratio": "学习率爬升所占的步数比例。常用：0 到 0.1。",
    "warmup_steps": "同上，用步数表示（PPO：迭代次数）；两者只给一个。",
    "warmup_start": "爬升从 learning_rate 的这个比例开始。InstructGPT：0.1。",
    "max_grad_norm": "每步之前，更长的梯度缩到这个范数。none：不缩。",
    "critic_learning_rate": "评论家自己的参数的步长：它的价值头，单独时是整个网络。none：learning_rate。",
    "critic_adam_epsilon": "评论家自己的参数用另一个 adam_epsilon（PPO-max）。none：adam_epsilon。",
    "eval_steps": (
        "每隔这么多次迭代在留出的提示上测一次策略，第一次之前和最后一次之后也测：得分、对起始模型的胜率、KL、长度、"
        "重复。不改变训练。none：不测。"
    ),
    "eval_dataset_name": "用来评估的留出的提示：像 dataset_name 那样的文件或 hub 数据集。",
    "dataset_test_split": "用 hub 数据集的哪个划分评估；文件没有。",
    "eval_fraction": "dataset_name 的提示里留出多少来评估，因而不学；相同的提示在同一边。常用：0.05。",
    "eval_num_prompts": (
        "最多用这么多条留出的提示评估，随机选一次。n 条提示的均值约有一个标准差 / sqrt(n) 的误差；时间随 n 增长。"
    ),
    "eval_temperature": "评估时回答的温度；0 每次取最可能的 token（贪心）。每次评估用同样的随机数。",
    "eval_reward_funcs": (
        "给评估的回答打分、但绝不优化的 Python 函数，写作 file.py:name。如果 reward_funcs 的得分升而它们的降，策略"
        "只讨好了给它打分的。"
    ),
    "eval_reward_model_path": "给评估的回答打分、但绝不优化的奖励模型，最好学的是与 reward_model_path 不同的数据。",
    "metric_for_best_model": (
        "保留这个指标最好时的检查点，不论 save_total_limit：eval/score、eval/win_rate、eval/kl，或 metrics.jsonl 里"
        "的任何名字。none：没有最好的检查点。"
    ),
    "greater_is_better": "metric_for_best_model 是不是越大越好；eval/kl 或 eval/repetition 用 false。",
    "load_best_model_at_end": "最终的模型用最好的检查点，而不是最后一次迭代的。",
    "output_dir": (
        "训练好的模型、评论家、metrics.jsonl、样本和完整配置的目录。AutoModelForCausalLM.from_pretrained 能加载。"
    ),
    "overwrite_output_dir": "替换 output_dir 里已有的训练。不设则是错误。",
    "total_episodes": "总共从多少条回答学习。迭代次数是 total_episodes / batch_size，向上取整。",
    "batch_size": "每次迭代的回答数：一起采样、打分，再一起学习。越多越稳，也越慢。",
    "micro_batch_size": "打分和学习时，一次最多这么多条回答通过模型。改变内存和速度，不改变结果。",
    "max_tokens_per_microbatch": (
        "除 micro_batch_size 行之外，一次最多这么多 token（含填充）通过模型；更长的一行单独通过。长度相近的行放在一"
        "个微批里。auto：学习时设备空闲内存的一半能放下的。none：没有这个界限。改变内存和速度，不改变结果。"
    ),
    "seed": "一切随机的种子：提示的顺序、采样、新的权重。",
    "deterministic": (
        "只用每次结果逐位相同的算法，同一种子的两次训练在 GPU 上也完全相同：会慢些，没有这样的算法时报错。CPU 不需要。"
    ),
    "sharding": (
        "多个进程（torchrun）如何对待模型各层的权重、梯度和优化器的记忆。none：每个进程都有全部。full：每个进程有一份"
        "（FSDP2），计算时逐层取得其余；内存更少，通信更多。auto：放不下全部时用 full。"
    ),
    "offload": (
        "各进程分摊的权重、它们的梯度和优化器的记忆放在哪里。none：在 GPU 上。cpu：在主机内存里，优化器也在那里计算；"
        "一层的权重只在需要时在 GPU 上。"
    ),
    "offload_frozen": (
        "参考模型和奖励模型的权重放在主机内存里，只在它们阅读时放到 GPU 上。内存更少，代价是每次迭代搬动两次。"
    ),
    "sample_steps": "每隔这么多次迭代显示一张样本回答的表；0 不显示。",
    "logging_steps": "每隔这么多次迭代打印一行指标。",
    "save_steps": (
        "每隔这么多次迭代写一个检查点，被中断时也写：接着训练所需的一切，约为参与学习的权重的三倍。0：不写。"
    ),
    "save_total_limit": "保留最新的这么多个检查点；最好的那个另外保留。写的时候磁盘上要再容得下一个。none：全部保留。",
    "resume_from_checkpoint": (
        "接着 output_dir 里的训练继续，就像从没停过：auto 取最新的完整检查点，没有就从头开始。或指明一个，如 "
        "runs/first/checkpoint-50。none：不继续。"
    ),
    "allow_changed_options": (
        "即使有会改变结果的选项不同，也继续；不设则报错并指出它们。这样的结果不属于任何一个配置。"
    ),
    "max_bad_steps": (
        "连续这么多步走不了就结束训练：损失、梯度、得分或对数概率不是有限的数。更少则略过，各有一条提示，那一批存在"
        " output_dir 的 faults/ 里。1：第一次就结束。"
    ),
    "on_bad_steps": (
        "连续 max_bad_steps 步走不了之后怎么办。stop：训练结束。rollback：回到最新的检查点，从那里抽别的回答，最多"
        "三次。"
    ),
    "watchdog_minutes": (
        "这么久没有阶段开始或结束，就打印每个线程停在哪里，并写进 output_dir 的 watchdog-1.txt；训练继续。none：没"
        "有人看着。"
    ),
    "ema_decay": (
        "保留策略的滑动平均，每次迭代更新一次，放在 ema_model/。InstructGPT：0.992，一半来自最近 86 次迭代。none："
        "没有平均。"
    ),
    "profile": (
        "追踪这些迭代，如 2 或 2,3（第一次从来不典型），写进 output_dir 的 profile/，供 Perfetto 和 TensorBoard 用，"
        "并打印时间花在哪里。会变慢。none：不追踪。"
    ),
    "sampler": (
        "由谁来写回答。in_process：训练进程自己，用自己的权重和数值。vllm：vLLM 引擎，在旁边或在别处，每次更新之后得到"
        "新的权重。"
    ),
    "vllm_mode": (
        "colocate：每个训练进程在自己旁边、同一设备上启动一个引擎，并负责结束它。server：用已经在运行的引擎，地址由 "
        "vllm_server_base_url 给出（clearppo vllm-serve 启动一个）。ray：由 --launch ray 在训练进程旁边启动引擎，结束了"
        "就再启动。"
    ),
    "vllm_engines": "由 Ray 启动几个引擎，每个有自己的 GPU 或 CPU。",
    "overlap_generation": (
        "一边从这批回答学习，一边抽取下一批。回答于是落后一次更新（一步异策略），必须由 importance_cap 校正；"
        "sampling/staleness 说明落后多少。"
    ),
    "vllm_server_base_url": (
        "引擎的地址，如 http://localhost:8000。多个：重复此选项，或用逗号分开；回答分给它们写，丢了一个，它那份由其余的"
        "来写。"
    ),
    "vllm_server_timeout": "等引擎启动、等它收下新权重，最多这么多秒。",
    "vllm_gpu_memory_utilization": (
        "引擎占用设备内存的比例，放权重和缓存的键与值；在 CPU 上是机器内存的比例。剩下的留给训练。"
    ),
    "vllm_max_model_length": (
        "引擎给一条提示加回答留多少 token 的位置。none：最长的提示加 response_length 需要多少就多少。"
    ),
    "vllm_dtype": (
        "引擎计算用的数值类型。auto：策略用 bfloat16 计算就用它，否则 float32。离策略的越远，"
        "sampling/log_prob_difference 越大。"
    ),
    "vllm_tensor_parallel_size": "引擎把每个权重切到多少块 GPU 上，用于一块放不下的模型。",
    "vllm_enable_sleep_mode": ("两次生成之间，引擎把 GPU 内存让给学习。代价：每次迭代把权重复制到主机内存再复制回来。"),
    "vllm_python": (
        "装有 vLLM 的 Python，如 ~/vllm/bin/python：vLLM 固定了自己的 torch 和 transformers 版本，可以有自己的环境。"
        "none：运行 ClearPPO 的那个。"
    ),
    "record_steps": (
        "每隔这么多次迭代，把所有回答的每个 token 留在 output_dir 的 record/ 里，第一次和最后一次总会留：对数概率、"
        "KL、奖励、价值、优势、比率。0：不留。"
    ),
    "record_answers": "每次迭代最多留这么多条回答，取一批里最前面的。none：全部。",
    "record_limit_mib": (
        "record/ 的文件合计超过这么多 MiB 时，每两个删去一个，此后也每两次只写一次，如此反复：整个过程都还在。"
    ),
    "report_to": (
        "实验追踪程序，指标、选项和样本回答一有就告诉它们：tensorboard、wandb、trackio、mlflow，可以几个。各用 pip "
        "install 'clearppo[NAME]' 安装，没有一个能拖慢或停住训练。none：只有 output_dir 里的文件，不用网络。"
    ),
    "run_name": "追踪程序的列表里这次训练的名字。none：output_dir 的最后两段。",
    "tracking_project": "这次训练属于什么：wandb 和 trackio 的项目，mlflow 的实验。",
    "tracking_dir": (
        "追踪程序存文件的目录，多次训练并列。none：tensorboard/ 在 output_dir 里，其余在它们自己的地方（WANDB_DIR、"
        "TRACKIO_DIR、MLFLOW_TRACKING_URI，或没有这些时它们自选的）。"
    ),
    "alarms": (
        "每次迭代后看看有没有这类训练常出的问题：KL 失控、熵坍缩、奖励是常数、回答不结束等等。开始和解除时各有一条"
        "提示，并在 alarms.jsonl 里记一行。不改变训练。"
    ),
    "alarm_actions": (
        "警报开始时做什么，只做一次：alarm=action，或 all=action。note：不做别的；off：不看它；checkpoint：写检查点；"
        "raise_kl：kl_coef x 1.5；lower_lr：学习率 x 0.5；rollback：回到之前的检查点，用别的回答继续；stop：结束训"
        "练（退出码 3）。"
    ),
}
