// SPDX-License-Identifier: Apache-2.0

// Package hermetic keeps the programs that write the OS image from looking at anything but their inputs.
//
// The same inputs must give the same bytes on any machine at any time. A build under another clock, user or
// host name shows many violations, but not all: a Go program that is linked statically reads the clock
// without asking the C library, which is where clocks are faked. So the calls themselves are
// forbidden. The analyzer sees direct uses only, not those inside of dependencies; the order in which a
// map is walked is beyond it too.
package hermetic

import (
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
)

// Analyzer reports uses of the clock, the environment, randomness and the machine's identity in packages
// that take part in writing the image.
var Analyzer = &analysis.Analyzer{
	Name: "hermetic",
	Doc:  "report what makes an image depend on more than its inputs",
	Run:  run,
}

const imagePackages = "github.com/constellation-os/constellation/image"

// exempt packages (and those below them) do not write the image.
var exempt = []string{
	// Fetches packages from mirrors and writes the lock.
	imagePackages + "/packages",
	// Runs in the booted machine.
	imagePackages + "/initrd/init",
	// Builds the image on a changed machine.
	imagePackages + "/reproducible",
}

const everything = "*"

// forbidden holds, for each package, the functions that must not be used, and why.
var forbidden = map[string]struct {
	names []string
	why   string
}{
	"time":         {[]string{"Now", "Since", "Until", "Local", "LoadLocation"}, "reads the clock or the time zone"},
	"os":           {[]string{"Environ", "ExpandEnv", "Getenv", "LookupEnv"}, "reads the environment"},
	"os/user":      {[]string{everything}, "reads the machine's users"},
	"math/rand":    {[]string{everything}, "is random"},
	"math/rand/v2": {[]string{everything}, "is random"},
	"crypto/rand":  {[]string{everything}, "is random"},
	"hash/maphash": {[]string{everything}, "is random"},
}

// identity is what the package os tells of the machine and the process besides.
var identity = map[string]bool{
	"Getegid": true, "Geteuid": true, "Getgid": true, "Getgroups": true, "Getpid": true, "Getppid": true,
	"Getuid": true, "Getwd": true, "Hostname": true, "UserCacheDir": true, "UserConfigDir": true, "UserHomeDir": true,
}

func run(pass *analysis.Pass) (any, error) {
	if !applies(pass.Pkg.Path()) {
		return nil, nil
	}
	for identifier, object := range pass.TypesInfo.Uses {
		if strings.HasSuffix(pass.Fset.Position(identifier.Pos()).Filename, "_test.go") {
			continue
		}
		if why := objection(object); why != "" {
			pass.Reportf(identifier.Pos(), "%s.%s %s: the image may depend on its inputs only",
				object.Pkg().Path(), object.Name(), why)
		}
	}
	return nil, nil
}

// applies tells whether a package takes part in writing the image.
func applies(path string) bool {
	path = strings.TrimSuffix(path, "_test")
	if !within(path, imagePackages) {
		return false
	}
	for _, prefix := range exempt {
		if within(path, prefix) {
			return false
		}
	}
	return true
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// objection says why an object must not be used, or is empty. Methods and fields are never objected to:
// whoever has the value got it from somewhere.
func objection(object types.Object) string {
	if object.Pkg() == nil || object.Parent() != object.Pkg().Scope() {
		return ""
	}
	path := object.Pkg().Path()
	if path == "os" && identity[object.Name()] {
		return "tells of the machine"
	}
	rule := forbidden[path]
	for _, name := range rule.names {
		if name == everything || name == object.Name() {
			return rule.why
		}
	}
	return ""
}
