#compdef vmctl
# Completion of vmctl(8) for zsh.

# VMs by name, as the daemon lists them to this user.
_vmctl_vms() {
  local -a vms
  vms=(${(f)"$(vmctl status "$@" 2>/dev/null | awk 'NR > 1 { print $NF }')"})
  compadd -a vms
}

_vmctl_running() { _vmctl_vms -r }

_vmctl() {
  local -a commands
  local curcontext=$curcontext state line
  commands=(
    'cdrom:change what is in a CD-ROM drive'
    'console:attach to the console of a running VM'
    'create:make a disk image'
    'disk-fail:let requests of a disk fail'
    'flush-stop:pause a VM at a flush of a disk'
    'doctor:look at the host, and say what VMs lack'
    'help:list the commands, or show the usage of one'
    'image:say what a disk image is or what is wrong with it, or make it larger'
    'load:read one more configuration file'
    'log:log less or more'
    'memory:ask a guest to get along with less memory, or more'
    'nmi:send an NMI to a guest that hangs'
    'pause:have a VM stand still'
    'receive:start a VM from a stream'
    'reload:read the configuration file again'
    'reset:end VMs, forget switches, or both'
    'send:write the state of a VM to a stream'
    'show:show VMs'
    'start:start a VM'
    'status:show VMs'
    'stop:end VMs'
    'unpause:let a paused VM go on'
    'wait:wait until a VM ends'
  )
  _arguments -C '(- *)'{-h,--help}'[list the commands]' '(- *)--version[show the release]' '-v[say more]' '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument)
      case $words[1] in
        console|nmi|pause|send|unpause|wait) _arguments '1:vm:_vmctl_running' ;;
        create)
          _arguments '-b[on top of a base image]:base:_files' '-i[a copy of an image]:disk:_files' \
            '-s[size]:size:' '1:disk:_files'
          ;;
        disk-fail)
          _arguments '1:vm:_vmctl_running' '2:disk:' '3:operation:(read write flush)' '4:count:'
          ;;
        flush-stop) _arguments '1:vm:_vmctl_running' '2:disk:' '3:count:' ;;
        cdrom) _arguments '-f[also if the guest has locked the tray]' '1:vm:_vmctl_running' '2:what:(eject insert)' '3:path:_files' ;;
        memory) _arguments '1:vm:_vmctl_running' '2:size:' ;;
        help) _describe command commands ;;
        doctor) _arguments '--json[as JSON]' ;;
        image) _arguments '--json[as JSON]' '-r[repair]' '1:what:(check info resize)' '2:disk:_files' '3:size:' ;;
        load) _arguments '1:file:_files' ;;
        log) _arguments '1:level:(brief verbose)' ;;
        receive) _arguments '1:name:' ;;
        reset) _arguments '1:what:(all switches vms)' ;;
        show|status) _arguments '--json[as JSON]' '-r[running VMs only]' '1:vm:_vmctl_vms' ;;
        start)
          _arguments '-B[boot from]:device:(cdrom disk net)' '-b[kernel or firmware]:path:_files' \
            '-c[attach to the console]' '*-d[disk image]:disk:_files' '-i[network cards]:count:' \
            '*-L[local network card]' '-m[memory]:size:' '*-n[network card on a switch]:switch:' '-p[CPUs]:count:' \
            '-r[CD-ROM image]:path:_files' '-t[instance of]:vm:_vmctl_vms' '-w[wait until it has stopped]' \
            '1:vm:_vmctl_vms'
          ;;
        stop) _arguments '-a[all that run]' '-f[at once]' '-w[wait until it is gone]' '1:vm:_vmctl_running' ;;
      esac
      ;;
  esac
}

_vmctl "$@"
