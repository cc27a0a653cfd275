from piip.nearest import FEW, nearest


def test_a_misspelt_name_is_answered_with_the_one_it_is_like():
    assert nearest("EVLA", ["eval", "cost"]) == "Nearest: 'eval'."


def test_a_name_like_nothing_is_answered_with_what_there_is():
    assert nearest("xyz", ["eval", "cost"]) == "There are: eval, cost."
    assert nearest("xyz", [f"row_{n}" for n in range(FEW + 1)]) == f"None of {FEW + 1} is called alike."
