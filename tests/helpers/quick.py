"""Programs that compile in half the time."""

import contextlib
import os

import jax
import pytest

EMITTERS = "xla_cpu_use_fusion_emitters"


class Compiler(contextlib.ExitStack):
    """Options of the compiler, here and in other processes. Leaving it restores them."""

    is_quick = False

    def be_quick(self, quick: bool) -> None:
        """Compiles quickly from now on, or with all optimisations.

        JAX keeps a compiled program whatever its settings become, so at a change all programs are forgotten:
        else they would round otherwise than those of a process that starts anew.
        """
        if quick == self.is_quick:
            return
        self.close()
        if quick:
            patch = self.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for other processes
            jax.config.update("jax_disable_most_optimizations", True)
            self.callback(jax.config.update, "jax_disable_most_optimizations", False)
            use_older_emitters(patch)
        jax.clear_caches()
        self.is_quick = quick


def use_older_emitters(patch: pytest.MonkeyPatch) -> None:
    """Has XLA's older code generator write the kernels, here and in other processes, if this XLA has it still.

    XLA reads its flags once in a process; an option that may change goes along with each program.
    """
    try:
        jax.jit(lambda x: x + 1, compiler_options={EMITTERS: False}).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):  # no such option
        return
    from jax._src import compiler  # nothing public sets an option of all programs

    options_of = compiler.get_compile_options

    def with_older_emitters(*args, env_options_overrides=None, **kwargs):
        options = {EMITTERS: False, **(env_options_overrides or {})}
        return options_of(*args, env_options_overrides=options, **kwargs)

    patch.setattr(compiler, "get_compile_options", with_older_emitters)
    patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --{EMITTERS}=false".strip())
