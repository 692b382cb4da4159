// SPDX-License-Identifier: Apache-2.0

package measurements

import (
	"strconv"
	"strings"

	"github.com/constellation-os/constellation/measurements"
)

// imageName is what people know an image by.
func imageName(i measurements.Image) string {
	return strings.Join(strings.Fields(i.Name+" "+i.Flavour+" "+i.Version), " ")
}

func list(pcrs []int) string {
	words := make([]string, len(pcrs))
	for i, p := range pcrs {
		words[i] = strconv.Itoa(p)
	}
	return strings.Join(words, ", ")
}
