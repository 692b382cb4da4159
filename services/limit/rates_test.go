// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"strconv"
	"testing"
)

func TestRatesAreBounded(t *testing.T) {
	l := NewRates(0.001, 1)
	for i := range maxRates + 10 {
		l.Allow(strconv.Itoa(i))
	}
	if n := len(l.each); n > maxRates {
		t.Errorf("%d rates are kept", n)
	}
	if l.Allow(strconv.Itoa(maxRates + 9)) {
		t.Error("the last one was forgotten")
	}
}
