"""Builds a run from its plan: loads the model, and makes the steps, the first state and the batches."""

from dataclasses import replace

import jax

from prism_jax.exchange import arrays
from prism_jax.experiments.build import load_model, with_adapters, with_trained
from prism_jax.experiments.exchange_arrays import with_arrays
from prism_jax.layers import lora
from prism_jax.models.base import Model
from prism_jax.parallel.processes import check_same
from prism_jax.progress import say
from prism_jax.tasks import prepare
from prism_jax.tasks.batches import steps_per_epoch, training_batches
from prism_jax.tasks.predict import Predictor
from prism_jax.trees import count, flatten, unflatten
from prism_jax.weights import Pretrained
from train import distill
from train.loop import Run
from train.optimizer import optimizer
from train.plan import Plan
from train.step import init_state, make_step, task_losses
from train.trainable import divide


def build(plan: Plan) -> Run:
    """Builds a run before its first step.

    Raises:
      InputError: if the weights or the data don't fit the model, nothing is left to train, or the weights of a
        process differ from those of process 0.
    """
    experiment, training, runners = plan.experiment, plan.training, plan.runners
    pretrained = _load_model(plan)
    model = pretrained.model
    check_same("weights", pretrained.params)
    fresh_arrays = _arrays_before_training(plan, model)
    params = unflatten(fresh_arrays | flatten(pretrained.params))
    # Those of the run that training starts from are kept even if no step uses them.
    of_exchanges = {*fresh_arrays, *(flatten(plan.start.params) if plan.start else ())}
    trained, frozen = divide(params, training, of_exchanges)
    task = prepare(
        plan.dataset, pretrained, experiment.num_tokens, augment=training.augment, smoothing=training.label_smoothing
    )
    epoch_steps = steps_per_epoch(task, plan.lengths, training.batch_size)
    num_updates = -(-max(round(training.epochs * epoch_steps), 1) // training.accumulate)
    num_steps = num_updates * training.accumulate
    rule = optimizer(training, num_updates)

    def step_through(setting):
        through = task, model, setting.exchange, runners[setting.num_parts]
        teaches = training.distill.teaches
        return make_step(distill.losses(*through, training.distill) if teaches else task_losses(*through), rule)

    replicate = runners[plan.settings[0].num_parts].replicate
    return Run(
        plan=plan,
        steps={setting: step_through(setting) for setting in plan.settings},
        frozen=replicate(frozen),
        teacher=replicate(lora.merge(pretrained.params)) if training.distill.teaches else None,
        state=replicate(init_state(trained, rule, training.seed)),
        batches=iter(training_batches(task, plan.lengths, training.batch_size, training.seed)),
        predictor=Predictor(
            model,
            prepare(plan.held_out, pretrained, experiment.num_tokens),
            plan.scored,
            runners[plan.scored.num_parts],
            experiment.batch_size,
            plan.lengths,
        ),
        num_steps=num_steps,
        evaluate_every=training.evaluate_every or epoch_steps,
        summary=(
            f"{len(plan.dataset)} examples, {epoch_steps} steps an epoch, {num_steps} steps; "
            f"{count(trained):,} parameters "
            f"trained through {', '.join(map(str, plan.settings))}; checkpoints chosen by {plan.scored}"
        ),
    )


def _arrays_before_training(plan: Plan, model: Model) -> dict[str, jax.Array]:
    """Returns the arrays of the exchanges that training changes, as they are before it, by their paths."""
    stack = model.config.stack
    return arrays.starts((setting.exchange for setting in plan.settings), stack.num_layers, stack.width_of)


def _load_model(plan: Plan) -> Pretrained:
    """Returns the model with the parameters that training starts from, fresh adapters included."""
    training = plan.training
    say(f"reading weights: {plan.start.run if plan.start else plan.experiment.weights}")
    pretrained = load_model(plan.experiment, plan.dataset, fresh=training.fresh)
    if plan.start:
        pretrained = with_trained(pretrained, plan.start)
    params = with_adapters(pretrained.params, training.lora_rank, training.lora_alpha, training.seed)
    return with_arrays(replace(pretrained, params=params), plan.experiment.exchange_arrays)
