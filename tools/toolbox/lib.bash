# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
#
# What prepare and enter share. The toolbox is a Debian root of its own whose /usr and /etc replace the
# machine's; all else (home, workspace, /tmp, /dev, /proc, network, users) is the machine's, at the same
# paths. It isolates nothing: it only brings tools.

definition=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Where a toolbox shows what belongs to it; its presence tells that one is inside.
readonly inside=/usr/share/constellation-toolbox

say() { printf 'toolbox: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# find_cache sets cache, the folder that toolboxes are kept in.
find_cache() {
  if [ -n "${XDG_CACHE_HOME:-}" ]; then
    cache=$XDG_CACHE_HOME/constellation
  elif [ -n "${HOME:-}" ]; then
    cache=$HOME/.cache/constellation
  else
    die "neither HOME nor XDG_CACHE_HOME is set: set one to a folder that can hold 3 GB"
  fi
  case $cache in
    /usr/* | /etc/*) die "the cache cannot be under /usr or /etc ($cache): set XDG_CACHE_HOME" ;;
    /*) ;;
    *) die "HOME or XDG_CACHE_HOME is not an absolute path: $cache" ;;
  esac
  if ! mkdir -p "$cache/toolbox" 2>/dev/null || [ ! -w "$cache/toolbox" ]; then
    die "cannot write to $cache/toolbox: set XDG_CACHE_HOME to a folder that can hold 3 GB"
  fi
}

# find_mirrors sets and exports DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR from the machine's apt sources,
# unless they are set. Where apt knows neither they stay unset.
find_mirrors() {
  local uri suite component label kept=$cache/mirrors main='' security=''
  if [ -n "${DEBIAN_MIRROR:-}" ] && [ -n "${DEBIAN_SECURITY_MIRROR:-}" ]; then
    export DEBIAN_MIRROR DEBIAN_SECURITY_MIRROR
    return
  fi
  if [ ! -e "$kept" ] || [ -n "$(find /etc/apt -newer "$kept" -print -quit 2>/dev/null)" ]; then
    # The format's variables are apt-get's.
    # shellcheck disable=SC2016
    while read -r uri suite component label; do
      [ "$component" = main ] || continue
      case $label:$uri in
        Debian-Security:* | :*/debian-security/ | :*/debian-security) security=${security:-$uri} ;;
        Debian:* | :*/debian/ | :*/debian) case $suite in *-backports*) ;; *) main=${main:-$uri} ;; esac ;;
      esac
    done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(LABEL)' \
      'Created-By: Packages' 2>/dev/null | grep '^http' || true)
    main=${main%/} security=${security%/}
    # The two are neighbours wherever one mirror has both.
    case $main in */debian) security=${security:-$main-security} ;; esac
    rm -f "$kept"
    [ -z "$main" ] || { printf '%s\n%s\n' "$main" "$security" >"$kept.$$" && mv "$kept.$$" "$kept"; }
  else
    { read -r main; read -r security; } <"$kept"
  fi
  DEBIAN_MIRROR=${DEBIAN_MIRROR:-$main} DEBIAN_SECURITY_MIRROR=${DEBIAN_SECURITY_MIRROR:-$security}
  [ -z "$DEBIAN_MIRROR" ] || export DEBIAN_MIRROR
  [ -z "$DEBIAN_SECURITY_MIRROR" ] || export DEBIAN_SECURITY_MIRROR
}

# find_go_settings exports where the machine's own Go, if any, is told to fetch modules from.
find_go_settings() {
  local names=(GOPROXY GOSUMDB GONOSUMDB GONOPROXY GOPRIVATE GOINSECURE) name value
  command -v go >/dev/null || return 0
  for name in "${names[@]}"; do
    IFS= read -r value || break
    [ -z "$value" ] || export "$name=$value"
  done < <(cd / && go env "${names[@]}" 2>/dev/null)
}

# enter_options ROOT sets options, the arguments of bwrap that make ROOT the toolbox.
enter_options() {
  local root=$1 entry file
  options=()
  for entry in /*; do
    case ${entry#/} in
      usr | bin | sbin | lib | lib32 | lib64 | libx32 | etc | dev | proc | sys | lost+found) ;;
      *) if [ -L "$entry" ]; then
          options+=(--symlink "$(readlink "$entry")" "$entry")
        elif [ -d "$entry" ]; then
          options+=(--bind "$entry" "$entry")
        fi ;;
    esac
  done
  options+=(--ro-bind "$root/usr" /usr --ro-bind "$root/etc" /etc)
  for entry in bin sbin lib lib64; do
    options+=(--symlink "usr/$entry" "/$entry")
  done
  options+=(--dev-bind /dev /dev --bind /proc /proc --bind /sys /sys)
  for file in resolv.conf hosts hostname passwd group; do
    [ ! -e "/etc/$file" ] || options+=(--ro-bind "$(readlink -f "/etc/$file")" "/etc/$file")
  done
  bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  if [ -s "$bundle" ]; then
    options+=(--ro-bind "$(readlink -f "$bundle")" /etc/ssl/certs/ca-certificates.crt)
  else
    bundle=$root/etc/ssl/certs/ca-certificates.crt
  fi
  for entry in GOROOT GOTOOLDIR JAVA_HOME LD_LIBRARY_PATH LD_PRELOAD LC_ALL SSL_CERT_DIR; do
    options+=(--unsetenv "$entry")
  done
  options+=(
    --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    --setenv LANG C.UTF-8
    --setenv SSL_CERT_FILE /etc/ssl/certs/ca-certificates.crt
  )
}
