"""Programs that compile in half the time."""

import contextlib
import os

import jax
import pytest

OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""XLA's older code generator writes the kernels, and all kernels of a program as one module."""


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
            set_options(patch)
        jax.clear_caches()
        self.is_quick = quick


def set_options(patch: pytest.MonkeyPatch) -> None:
    """Has XLA compile with `OPTIONS`, here and in other processes, if this XLA has them still.

    XLA reads its flags once in a process; an option that may change goes along with each program.
    """
    try:
        jax.jit(lambda x: x + 1, compiler_options=OPTIONS).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):  # one is no option
        return
    from jax._src import compiler  # nothing public sets an option of all programs

    options_of = compiler.get_compile_options

    def with_options(*args, env_options_overrides=None, **kwargs):
        return options_of(*args, env_options_overrides=OPTIONS | (env_options_overrides or {}), **kwargs)

    patch.setattr(compiler, "get_compile_options", with_options)
    flags = [f"--{name}={str(value).lower()}" for name, value in OPTIONS.items()]
    patch.setenv("XLA_FLAGS", " ".join([*filter(None, [os.environ.get("XLA_FLAGS")]), *flags]))
