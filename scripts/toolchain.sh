# shellcheck shell=bash
# Sourced by the other scripts: finds the Rust toolchain also under sudo, whose PATH has not the user's
# ~/.cargo/bin, and gives files made as root in the user's checkout back to the user.

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

if [[ -n ${SUDO_USER:-} ]]; then
    user_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    # The user's toolchain, but root's own registry cache: no file of root's lands in the user's.
    [[ -z ${RUSTUP_HOME:-} && -d $user_home/.rustup ]] && export RUSTUP_HOME=$user_home/.rustup
    PATH=$PATH:/root/.cargo/bin:$user_home/.cargo/bin
fi
export PATH=${HOME:-/root}/.cargo/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

# give_back: after sudo, target/ belongs to whom the checkout belongs.
give_back() {
    if [[ $EUID == 0 && -n ${SUDO_UID:-} && -d target && $(stat -c %u .) == "$SUDO_UID" ]]; then
        chown -R --no-dereference "$SUDO_UID:${SUDO_GID:-0}" target
    fi
}
