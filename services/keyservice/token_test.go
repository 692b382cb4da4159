// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"
)

// jwt makes what looks like a token.
func jwt(payload string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

func tokenFor(audience string) string {
	return jwt(fmt.Sprintf(`{"aud":[%q],"exp":%d}`, audience, time.Now().Add(time.Hour).Unix()))
}

// reviewer asks an API server that answers as the test wants; it counts the questions.
func reviewer(t *testing.T, answer func(w http.ResponseWriter, in *authenticationv1.TokenReview)) (*Reviewer, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var in authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
			t.Errorf("asked for %s, %v", r.URL.Path, err)
		}
		w.Header().Set("Content-Type", "application/json")
		answer(w, &in)
	}))
	t.Cleanup(server.Close)
	r, err := NewReviewer(&rest.Config{Host: server.URL}, "keys")
	if err != nil {
		t.Fatal(err)
	}
	return r, &asked
}

// status answers with a status, as an API server would.
func answerWith(s authenticationv1.TokenReviewStatus) func(http.ResponseWriter, *authenticationv1.TokenReview) {
	return func(w http.ResponseWriter, in *authenticationv1.TokenReview) {
		in.APIVersion, in.Kind, in.Status = "authentication.k8s.io/v1", "TokenReview", s
		json.NewEncoder(w).Encode(in)
	}
}

func accepted(user string) authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"keys"}, User: authenticationv1.UserInfo{
		Username: user, Extra: map[string]authenticationv1.ExtraValue{podNameKey: {"pod-1"}},
	}}
}

func allow() error { return nil }

func wantReason(t *testing.T, err error, want Reason, says string) {
	t.Helper()
	if got := reasonOf(err); got != want || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("got %q (%v), want %q that says %q", got, err, want, says)
	}
}

// TestTokensThatAreNone are refused without asking the API server.
func TestTokensThatAreNone(t *testing.T) {
	r, asked := reviewer(t, answerWith(accepted("system:serviceaccount:a:b")))
	soon := time.Now().Add(time.Hour).Unix()
	for _, tc := range []struct {
		name, token string
		want        Reason
		says        string
	}{
		{"nothing", "", ReasonToken, "not a JSON web token"},
		{"text", "password", ReasonToken, "not a JSON web token"},
		{"two parts", "e30.e30", ReasonToken, "not a JSON web token"},
		{"not base64", "e30.!.x", ReasonToken, "not a JSON web token"},
		{"not JSON", jwt("x"), ReasonToken, "not a JSON web token"},
		{"too long", tokenFor("keys") + strings.Repeat("A", maxToken), ReasonToken, "not a JSON web token"},
		{"no audience", jwt(fmt.Sprintf(`{"exp":%d}`, soon)), ReasonAudience, "for audiences []"},
		{"another audience", tokenFor("vault"), ReasonAudience, `for audiences ["vault"]`},
		{"another audience, as one string", jwt(fmt.Sprintf(`{"aud":"vault","exp":%d}`, soon)), ReasonAudience, `for audiences ["vault"]`},
		{"expired", jwt(`{"aud":["keys"],"exp":1600000000}`), ReasonToken, "expired at 2020-09-13"},
		{"never expires", jwt(`{"aud":["keys"]}`), ReasonToken, "expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := r.Authenticate(t.Context(), tc.token, allow)
			wantReason(t, err, tc.want, tc.says)
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the API server was asked %d times", n)
	}
}

func TestReviews(t *testing.T) {
	oneMore := accepted("system:serviceaccount:a:b")
	oneMore.Audiences = nil
	other := accepted("system:serviceaccount:a:b")
	other.Audiences = []string{"vault"}
	fail := func(code int) func(http.ResponseWriter, *authenticationv1.TokenReview) {
		return func(w http.ResponseWriter, _ *authenticationv1.TokenReview) { w.WriteHeader(code) }
	}
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter, *authenticationv1.TokenReview)
		want   Reason
		says   string
	}{
		{"accepted", answerWith(accepted("system:serviceaccount:a:b")), "", ""},
		{"not accepted", answerWith(authenticationv1.TokenReviewStatus{Error: "unknown"}), ReasonToken, "does not accept it: unknown"},
		{"accepted by a server that ignores audiences", answerWith(oneMore), ReasonAudience, "accepts it for audiences []"},
		{"accepted for another audience", answerWith(other), ReasonAudience, `accepts it for audiences ["vault"]`},
		{"a person", answerWith(accepted("admin")), ReasonIdentity, `user "admin" is not`},
		{"a node", answerWith(accepted("system:node:x")), ReasonIdentity, "is not a service account"},
		{"half a service account", answerWith(accepted("system:serviceaccount:a")), ReasonIdentity, "is not a service account"},
		{"a nameless service account", answerWith(accepted("system:serviceaccount:a:")), ReasonIdentity, "is not a service account"},
		{"server error", fail(500), ReasonReview, "token review"},
		{"throttled", fail(429), ReasonReview, "token review"},
		{"not permitted", fail(403), ReasonReview, "token review"},
		{"garbage", func(w http.ResponseWriter, _ *authenticationv1.TokenReview) { fmt.Fprint(w, "{{{") }, ReasonReview, "token review"},
		{"an empty answer", func(w http.ResponseWriter, _ *authenticationv1.TokenReview) {
			fmt.Fprint(w, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview"}`)
		}, ReasonToken, "does not accept it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := reviewer(t, tc.answer)
			i, err := r.Authenticate(t.Context(), tokenFor("keys"), allow)
			wantReason(t, err, tc.want, tc.says)
			if err == nil && (i.String() != "a/b" || i.Pod != "pod-1") {
				t.Errorf("identity %+v", i)
			}
			if err != nil && i != nil {
				t.Errorf("refused, yet identified as %v", i)
			}
		})
	}
}

// TestVerdictsAreRemembered: for a while, each token for itself; failures are not.
func TestVerdictsAreRemembered(t *testing.T) {
	down := true
	r, asked := reviewer(t, func(w http.ResponseWriter, in *authenticationv1.TokenReview) {
		if down {
			w.WriteHeader(503)
			return
		}
		answerWith(accepted("system:serviceaccount:a:b"))(w, in)
	})
	token := tokenFor("keys")
	_, err := r.Authenticate(t.Context(), token, allow)
	wantReason(t, err, ReasonReview, "")
	down = false
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if _, err := r.Authenticate(t.Context(), token, allow); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := asked.Load(); n < 2 || n > 100 {
		t.Errorf("asked %d times", n)
	}
	before := asked.Load()
	_, err = r.Authenticate(t.Context(), token, func() error { return refuse(ReasonRate, "no") })
	if err != nil || asked.Load() != before {
		t.Errorf("a token that is known was reviewed again: %v", err)
	}
	_, err = r.Authenticate(t.Context(), jwt(fmt.Sprintf(`{"aud":"keys","exp":%d,"n":1}`, time.Now().Add(time.Hour).Unix())), func() error { return refuse(ReasonRate, "no") })
	wantReason(t, err, ReasonRate, "no")
	for digest, v := range r.verdicts {
		v.expires = time.Now().Add(-time.Second)
		r.verdicts[digest] = v
	}
	if _, err := r.Authenticate(t.Context(), token, allow); err != nil || asked.Load() != before+1 {
		t.Errorf("asked %d times after the verdict expired, %v", asked.Load()-before, err)
	}
}

func TestVerdictsAreBounded(t *testing.T) {
	r := &Reviewer{verdicts: map[[32]byte]verdict{}}
	for i := range maxVerdicts + 100 {
		r.remember([32]byte{byte(i), byte(i >> 8)}, verdict{identity: joinService}, time.Now().Add(time.Hour))
	}
	if n := len(r.verdicts); n > maxVerdicts {
		t.Errorf("%d verdicts", n)
	}
	// A verdict does not outlive its token.
	r.remember([32]byte{0xff, 0xff}, verdict{identity: joinService}, time.Now().Add(-time.Second))
	if _, ok := r.remembered([32]byte{0xff, 0xff}); ok {
		t.Error("a token that expired is accepted")
	}
}

// TestSilentAPIServer does not keep callers for longer than a review may take.
func TestSilentAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Reviewer{slots: make(chan struct{}, 1), verdicts: map[[32]byte]verdict{}, audience: "keys"}
		r.slots <- struct{}{} // a review that hangs
		began := time.Now()
		_, err := r.Authenticate(t.Context(), tokenFor("keys"), allow)
		wantReason(t, err, ReasonReview, "under way already")
		if took := time.Since(began); took != reviewTime {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = r.Authenticate(ctx, tokenFor("keys"), allow)
		wantReason(t, err, ReasonReview, "did not wait")
		time.Sleep(reviewTime)
	})
}

func TestNoAudience(t *testing.T) {
	if _, err := NewReviewer(&rest.Config{}, ""); err == nil {
		t.Error("tokens for anybody are accepted")
	}
}

func FuzzToken(f *testing.F) {
	f.Add(tokenFor("keys"))
	f.Add(jwt(`{"aud":{"a":1},"exp":"x"}`))
	f.Add(jwt(`{"aud":["keys"],"exp":1e300}`))
	r := &Reviewer{audience: "keys"}
	f.Fuzz(func(t *testing.T, token string) {
		now := time.Now()
		expires, err := r.look(token, now)
		if err != nil && reasonOf(err) != ReasonToken && reasonOf(err) != ReasonAudience {
			t.Fatal(err)
		}
		if err == nil && !expires.After(now) {
			t.Fatalf("expires at %v", expires)
		}
	})
}
