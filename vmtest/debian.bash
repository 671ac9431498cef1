# SPDX-License-Identifier: Apache-2.0
#
# What vmtest/install and vmtest/kernels both know of Debian's archive; to be sourced.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The lines of a sources.list for suites, from where this machine gets its own packages.
# None for a security suite that is nowhere, which is no harm.
sources() {
	local suite name uri
	for suite; do
		name=debian
		[[ $suite != *-security ]] || name=debian-security
		uri=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Identifier: Packages' |
			sed 's:/*$::' | sort -u | grep -m1 "/$name\$" || true)
		[ -z "$uri" ] || echo "deb [arch=amd64 signed-by=$keyring] $uri $suite main"
	done
}
