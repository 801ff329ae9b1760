// Whether the server is to be reached, for people: Syncline itself tries again in any case.

/** @param {() => void} onChange */
export function connection(onChange) {
  let problem = null;
  const settle = (next) => {
    if (next === problem) return;
    problem = next;
    onChange();
  };
  const failed = (error) => {
    if (error?.name === "AbortError" || error?.sqlstate === "40001") return;
    settle(error?.status === 401 ? "stranger" : "unreachable");
  };
  addEventListener("online", onChange);
  addEventListener("offline", onChange);
  return {
    failed,
    /** @returns {"offline" | "unreachable" | "stranger" | null} */
    status: () => (navigator.onLine ? problem : "offline"),
    /** The same request, whose outcome is noticed. */
    watch: (request) => async (...args) => {
      try {
        const answer = await request(...args);
        settle(null);
        return answer;
      } catch (error) {
        if (error.rejected) settle(null);
        else failed(error);
        throw error;
      }
    },
    /** The same stream, whose end is noticed. */
    follow: (stream) => async function* (signal) {
      try {
        yield* stream(signal);
      } catch (error) {
        failed(error);
        throw error;
      }
    },
  };
}
