"""Answers that try to end, hang, fill, leave or fool the verifier that reads them."""

from __future__ import annotations

import random
from itertools import islice

CODE = r"""
exit()
quit()
OS._exit(0)
OS._exit(3)
OS.abort()
exit() or 1
[exit() for _ in (1,)]
(exit)()
__import__('sys').exit('x')
raise SystemExit
(_ for _ in ()).throw(SystemExit)
(_ for _ in ()).throw(KeyboardInterrupt)
9**9**9
2**2**100
10**10**10
99999!!!!
factorial(10**8)
(lambda f: f(f))(lambda f: f(f))
[0 for _ in iter(int, 1)]
__import__('time').sleep(1000)
list(range(10**12))
'x'*10**12
[0]*10**10
print('x'*10**7)
OS.system('touch PLACE/x')
OS.fork()
[OS.fork() for _ in range(99)]
OS.kill(OS.getppid(), 9)
OS.killpg(0, 9)
OS.remove('PLACE/kept')
OS.rename('PLACE/kept', 'PLACE/x')
OS.open('PLACE/x', 65)
open('PLACE/x', 'w').write('x')
open('PLACE/kept', 'a').write('x')
__import__('pathlib').Path('PLACE/kept').unlink()
__import__('shutil').rmtree('PLACE')
__import__('subprocess').run(['touch', 'PLACE/x'])
__import__('socket').create_connection(('127.0.0.1', 80))
__import__('urllib.request').request.urlopen('http://127.0.0.1')
__import__('ctypes').string_at(0)
__import__('ctypes').CDLL(None).kill(OS.getppid(), 9)
__import__('signal').alarm(1)
__import__('signal').signal(2, print)
__import__('resource').setrlimit(7, (0, 0))
__import__('sys').setrecursionlimit(10**9)
__import__('threading').Thread(target=print).start()
__import__('multiprocessing').Process(target=print).start()
__import__('builtins').__dict__.clear()
__import__('gc').get_objects()
OS.close(1)
[OS.close(i) for i in range(3, 99)]
[OS.write(i, b'x'*99) for i in range(3, 12)]
globals().clear()
input()
breakpoint()
help()
vars()
""".strip().splitlines()
"""OS is Python's module, PLACE a folder with a file that is to be kept."""

LONG = ["(" * 3000, "[" * 3000, "-" * 3000 + "1", "9" * 5000, "x" * 100_000, "0." + "0" * 5000 + "1", "9" * 4000 + "**9999999"]
JUNK = [
    *("", " ", "\n", "\0", "nan", "inf", "-inf", "1e999", "nan+nanj", "[nan]", "[[inf]]", "None", "True", "False", "yes", "0"),
    *("ｅｘｉｔ()", "☃" * 100, "\ud800", "'", '"""', "a=b", "1/0", "0**-1", "{}", "[]", "()", "[[]]", "[1, [2]]", "\\boxed{1}"),
]
COUNT = 95


def hostile_answers(place: str, seed: int) -> list[str]:
    """Code, junk, and mixtures of the two that the seed draws: `COUNT` in all.

    >>> len(hostile_answers("/tmp/x", 0)), hostile_answers("/tmp/x", 0)[2]
    (95, "__import__('os')._exit(0)")
    """
    draw = random.Random(seed)
    mixed = (f"{draw.choice(JUNK)}{draw.choice(['', ' ', '+', ',', '('])}{draw.choice(CODE)}" for _ in iter(int, 1))
    chosen = [*CODE, *LONG, *draw.sample(JUNK, 20), *islice(mixed, COUNT)][:COUNT]
    return [text.replace("OS.", "__import__('os').").replace("PLACE", place) for text in chosen]
