# Completion of vmctl(8) for fish.

# VMs by name, as the daemon lists them to this user.
function __vmctl_vms
    vmctl status $argv 2>/dev/null | awk 'NR > 1 { print $NF }'
end

function __vmctl_is
    __fish_seen_subcommand_from $argv
end

set -l commands cdrom console create disk-fail doctor flush-stop help image load log memory nmi pause receive reload reset send show start status stop unpause wait

complete -c vmctl -f
complete -c vmctl -n "not __fish_seen_subcommand_from $commands" -s v -d 'Say more'
complete -c vmctl -n "not __fish_seen_subcommand_from $commands" -s h -l help -d 'List the commands'
complete -c vmctl -n "not __fish_seen_subcommand_from $commands" -l version -d 'Show the release'
complete -c vmctl -n '__vmctl_is help' -a "$commands"
complete -c vmctl -n "not __fish_seen_subcommand_from $commands" -a "$commands"

complete -c vmctl -n '__vmctl_is cdrom console disk-fail flush-stop memory nmi pause send stop unpause wait' -a '(__vmctl_vms -r)'
complete -c vmctl -n '__vmctl_is show start status' -a '(__vmctl_vms)'
complete -c vmctl -n '__vmctl_is create load' -F
complete -c vmctl -n '__vmctl_is cdrom' -a 'eject insert'
complete -c vmctl -n '__vmctl_is cdrom' -s f -d 'Also if the guest has locked the tray'
complete -c vmctl -n '__vmctl_is insert' -F
complete -c vmctl -n '__vmctl_is image' -F -a 'check info resize'
complete -c vmctl -n '__vmctl_is image' -s r -d 'Repair'
complete -c vmctl -n '__vmctl_is log' -a 'brief verbose'
complete -c vmctl -n '__vmctl_is disk-fail' -a 'read write flush'
complete -c vmctl -n '__vmctl_is reset' -a 'all switches vms'

complete -c vmctl -n '__vmctl_is create' -s b -r -F -d 'On top of a base image'
complete -c vmctl -n '__vmctl_is create' -s i -r -F -d 'A copy of an image'
complete -c vmctl -n '__vmctl_is create' -s s -x -d 'Size'

complete -c vmctl -n '__vmctl_is doctor image show status' -l json -d 'As JSON'
complete -c vmctl -n '__vmctl_is show status' -s r -d 'Running VMs only'

complete -c vmctl -n '__vmctl_is start' -s B -x -a 'cdrom disk net' -d 'Boot from'
complete -c vmctl -n '__vmctl_is start' -s b -r -F -d 'Kernel or firmware'
complete -c vmctl -n '__vmctl_is start' -s c -d 'Attach to the console'
complete -c vmctl -n '__vmctl_is start' -s d -r -F -d 'Disk image'
complete -c vmctl -n '__vmctl_is start' -s i -x -d 'Network cards'
complete -c vmctl -n '__vmctl_is start' -s L -d 'Local network card'
complete -c vmctl -n '__vmctl_is start' -s m -x -d 'Memory'
complete -c vmctl -n '__vmctl_is start' -s n -x -d 'Network card on a switch'
complete -c vmctl -n '__vmctl_is start' -s p -x -d 'CPUs'
complete -c vmctl -n '__vmctl_is start' -s r -r -F -d 'CD-ROM image'
complete -c vmctl -n '__vmctl_is start' -s t -x -a '(__vmctl_vms)' -d 'Instance of'
complete -c vmctl -n '__vmctl_is start' -s w -d 'Wait until it has stopped'

complete -c vmctl -n '__vmctl_is stop' -s a -d 'All that run'
complete -c vmctl -n '__vmctl_is stop' -s f -d 'At once'
complete -c vmctl -n '__vmctl_is stop' -s w -d 'Wait until it is gone'
