# Completion of vmctl(8) for bash.

# VMs by name, as the daemon lists them to this user.
_vmctl_vms() {
	vmctl status "$@" 2>/dev/null | awk 'NR > 1 { print $NF }'
}

_vmctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= at options= words=
	local commands="cdrom console create disk-fail doctor flush-stop help image load log memory nmi pause receive reload reset send show start status stop unpause wait"
	for ((at = 1; at < COMP_CWORD; at++)); do
		[[ ${COMP_WORDS[at]} == -* ]] && continue
		command=${COMP_WORDS[at]}
		break
	done
	COMPREPLY=()
	case $command in
	"")
		if [[ $cur == -* ]]; then words="--help --version -h -v"; else words=$commands; fi
		;;
	help) words=$commands ;;
	image) options="--json -r" words="check info resize" ;;
	console | pause | send | wait) words=$(_vmctl_vms -r) ;;
	create)
		case $prev in
		-s) return ;;
		*) options="-b -i -s" ;;
		esac
		;;
	disk-fail) words="read write flush "$(_vmctl_vms -r) ;;
	flush-stop) words=$(_vmctl_vms -r) ;;
	doctor) options="--json" ;;
	load) ;;
	log) words="brief verbose" ;;
	receive | reload) return ;;
	reset) words="all switches vms" ;;
	show | status) options="--json -r" words=$(_vmctl_vms) ;;
	start)
		case $prev in
		-B) words="cdrom disk net" ;;
		-[bdr]) ;;
		-[imnp]) return ;;
		-t) words=$(_vmctl_vms) ;;
		*) options="-B -b -c -d -i -L -m -n -p -r -t -w" words=$(_vmctl_vms) ;;
		esac
		;;
	stop) options="-a -f -w" words=$(_vmctl_vms -r) ;;
	cdrom)
		case $prev in
		insert) ;;
		*) options="-f" words="eject insert "$(_vmctl_vms -r) ;;
		esac
		;;
	memory | nmi | unpause) words=$(_vmctl_vms -r) ;;
	*) return ;;
	esac
	[[ $cur == -* ]] && words=$options${words:+ }$([[ $words == -* ]] && echo "$words")
	case $command:$prev in
	load:* | create:* | image:check | image:info | image:resize | image:-r | start:-[bdr] | cdrom:insert) [[ $cur == -* ]] || compopt -o default 2>/dev/null ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _vmctl vmctl
